//! Types and shapes.
#![allow(non_snake_case)] // the table's field names

use std::ffi::c_char;

use ort_sys::{ONNXTensorElementDataType, ONNXType, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtTypeInfo};

use crate::fault::{Fault, guard};
use crate::handle::{array, borrow, borrow_mut, give, put, release};
use crate::tensor::{TensorInfo, TypeInfo};

pub(super) unsafe extern "system" fn ReleaseTypeInfo(info: *mut OrtTypeInfo) {
    // SAFETY: null or from `give`, and not used again, by the contract of `ffi`.
    unsafe { release::<TypeInfo>(info) };
}

/// Lends the tensor's part of a type: it is not to be released.
pub(super) unsafe extern "system" fn CastTypeInfoToTensorInfo(
    info: *const OrtTypeInfo,
    out: *mut *const OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: `info` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, (&raw const borrow::<TypeInfo>(info)?.tensor).cast()) })
}

pub(super) unsafe extern "system" fn GetOnnxTypeFromTypeInfo(
    _info: *const OrtTypeInfo,
    out: *mut ONNXType,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, ONNXType::ONNX_TYPE_TENSOR) })
}

pub(super) unsafe extern "system" fn CreateTensorTypeAndShapeInfo(
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    let element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    // SAFETY: as above.
    guard(|| unsafe {
        give(
            out,
            TensorInfo {
                element,
                shape: Vec::new(),
            },
        )
    })
}

pub(super) unsafe extern "system" fn ReleaseTensorTypeAndShapeInfo(info: *mut OrtTensorTypeAndShapeInfo) {
    // SAFETY: null or from `give` (never from `CastTypeInfoToTensorInfo`, which only lends), and not used again.
    unsafe { release::<TensorInfo>(info) };
}

pub(super) unsafe extern "system" fn SetTensorElementType(
    info: *mut OrtTensorTypeAndShapeInfo,
    element: ONNXTensorElementDataType,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `info` is null or live and the caller's alone to change, by the contract of `ffi`.
        unsafe { borrow_mut::<TensorInfo>(info)? }.element = element;
        Ok(())
    })
}

pub(super) unsafe extern "system" fn SetDimensions(
    info: *mut OrtTensorTypeAndShapeInfo,
    lengths: *const i64,
    axes: usize,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `info` is null or live and the caller's alone to change, `lengths` null or `axes` numbers.
        unsafe { borrow_mut::<TensorInfo>(info)?.shape = array(lengths, axes)?.to_vec() };
        Ok(())
    })
}

/// Names of axes are not kept.
pub(super) unsafe extern "system" fn SetSymbolicDimensions(
    _info: *mut OrtTensorTypeAndShapeInfo,
    _names: *mut *const c_char,
    _axes: usize,
) -> OrtStatusPtr {
    OrtStatusPtr::default()
}

pub(super) unsafe extern "system" fn GetTensorElementType(
    info: *const OrtTensorTypeAndShapeInfo,
    out: *mut ONNXTensorElementDataType,
) -> OrtStatusPtr {
    // SAFETY: `info` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, borrow::<TensorInfo>(info)?.element) })
}

pub(super) unsafe extern "system" fn GetDimensionsCount(
    info: *const OrtTensorTypeAndShapeInfo,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, borrow::<TensorInfo>(info)?.shape.len()) })
}

pub(super) unsafe extern "system" fn GetDimensions(
    info: *const OrtTensorTypeAndShapeInfo,
    out: *mut i64,
    axes: usize,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `info` is null or live, `out` null or writable for `axes` numbers, by the contract of `ffi`.
        unsafe { fill(out, borrow::<TensorInfo>(info)?.shape.iter().copied().take(axes)) }
    })
}

/// Every axis has the empty name.
pub(super) unsafe extern "system" fn GetSymbolicDimensions(
    _info: *const OrtTensorTypeAndShapeInfo,
    out: *mut *const c_char,
    axes: usize,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable for `axes` pointers, by the contract of `ffi`.
    guard(|| unsafe { fill(out, std::iter::repeat_n(c"".as_ptr(), axes)) })
}

/// # Safety
/// `out` is null or writable for all of `values`.
unsafe fn fill<T>(out: *mut T, values: impl Iterator<Item = T>) -> Result<(), Fault> {
    for (index, value) in values.enumerate() {
        // SAFETY: passed on from the caller; null is refused by `put` at once.
        unsafe {
            put(
                if out.is_null() {
                    out
                } else {
                    out.wrapping_add(index)
                },
                value,
            )?
        };
    }
    Ok(())
}

pub(super) unsafe extern "system" fn GetTensorShapeElementCount(
    info: *const OrtTensorTypeAndShapeInfo,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: `info` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, borrow::<TensorInfo>(info)?.count()?) })
}
