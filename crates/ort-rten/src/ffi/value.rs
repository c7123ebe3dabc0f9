//! Values: always tensors.
#![allow(non_snake_case)] // the table's field names

use std::ffi::{c_int, c_void};

use ort_sys::{
    ONNXTensorElementDataType, ONNXType, OrtAllocator, OrtMemoryInfo, OrtStatusPtr,
    OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue,
};

use super::memory::{CPU, cpu};
use crate::fault::guard;
use crate::handle::{array, borrow, borrow_mut, give, put, release};
use crate::tensor::{Tensor, TensorInfo, TypeInfo};

pub(super) unsafe extern "system" fn CreateTensorAsOrtValue(
    _allocator: *mut OrtAllocator,
    shape: *const i64,
    axes: usize,
    element: ONNXTensorElementDataType,
    out: *mut *mut OrtValue,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `shape` is null or `axes` lengths, by the contract of `ffi`.
        let shape = unsafe { array(shape, axes)? }.to_vec();
        // SAFETY: `out` is null or writable, by the contract of `ffi`.
        unsafe { give(out, Tensor::zeros(TensorInfo { element, shape })?) }
    })
}

/// Copies the elements: see the invariants of the crate.
pub(super) unsafe extern "system" fn CreateTensorWithDataAsOrtValue(
    _memory: *const OrtMemoryInfo,
    elements: *mut c_void,
    bytes: usize,
    shape: *const i64,
    axes: usize,
    element: ONNXTensorElementDataType,
    out: *mut *mut OrtValue,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `shape` is null or `axes` lengths, by the contract of `ffi`.
        let shape = unsafe { array(shape, axes)? }.to_vec();
        // SAFETY: `elements` is null or `bytes` initialised bytes that stay unchanged during the call.
        let elements = unsafe { array(elements.cast_const().cast::<u8>(), bytes)? };
        // SAFETY: `out` is null or writable, by the contract of `ffi`.
        unsafe { give(out, Tensor::from_bytes(TensorInfo { element, shape }, elements)?) }
    })
}

pub(super) unsafe extern "system" fn ReleaseValue(value: *mut OrtValue) {
    // SAFETY: null or from `give`, and not used again, by the contract of `ffi`.
    unsafe { release::<Tensor>(value) };
}

pub(super) unsafe extern "system" fn IsTensor(_value: *const OrtValue, out: *mut c_int) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, 1) })
}

pub(super) unsafe extern "system" fn GetValueType(
    _value: *const OrtValue,
    out: *mut ONNXType,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, ONNXType::ONNX_TYPE_TENSOR) })
}

pub(super) unsafe extern "system" fn GetTensorMutableData(
    value: *mut OrtValue,
    out: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: `value` is null or live and the caller's alone to change, `out` null or writable. The address stays
    // good until the value is released: a tensor never moves its elements.
    guard(|| unsafe { put(out, borrow_mut::<Tensor>(value)?.as_mut_ptr().cast()) })
}

pub(super) unsafe extern "system" fn GetTypeInfo(
    value: *const OrtValue,
    out: *mut *mut OrtTypeInfo,
) -> OrtStatusPtr {
    // SAFETY: `value` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe {
        give(
            out,
            TypeInfo {
                tensor: borrow::<Tensor>(value)?.info().clone(),
            },
        )
    })
}

pub(super) unsafe extern "system" fn GetTensorTypeAndShape(
    value: *const OrtValue,
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { give(out, borrow::<Tensor>(value)?.info().clone()) })
}

pub(super) unsafe extern "system" fn GetTensorElementTypeAndShapeDataReference(
    value: *const OrtValue,
    element: *mut ONNXTensorElementDataType,
    shape: *mut *const i64,
    axes: *mut usize,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `value` is null or live, the rest null or writable. The shape is lent for as long as the value
        // lives: a tensor never changes its shape.
        unsafe {
            let info = borrow::<Tensor>(value)?.info();
            put(element, info.element)?;
            put(shape, info.shape.as_ptr())?;
            put(axes, info.shape.len())
        }
    })
}

pub(super) unsafe extern "system" fn GetTensorMemoryInfo(
    _value: *const OrtValue,
    out: *mut *const OrtMemoryInfo,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, cpu(&CPU)) })
}
