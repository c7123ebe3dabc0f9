//! Sessions and their options.
#![allow(non_snake_case)] // the table's field names

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

use ort_sys::{
    GraphOptimizationLevel, OrtAllocator, OrtEnv, OrtMemoryInfo, OrtRunOptions, OrtSession,
    OrtSessionOptions, OrtStatusPtr, OrtTypeInfo, OrtValue, os_char,
};

use super::memory::{CPU, cpu, give_string};
use crate::fault::{Fault, guard};
use crate::handle::{array, borrow, borrow_mut, give, into_raw, put, release, string};
use crate::session::{Options, Port, Session};
use crate::tensor::{Tensor, TypeInfo};

pub(super) unsafe extern "system" fn CreateSessionOptions(out: *mut *mut OrtSessionOptions) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { give(out, Options::default()) })
}

pub(super) unsafe extern "system" fn CloneSessionOptions(
    options: *const OrtSessionOptions,
    out: *mut *mut OrtSessionOptions,
) -> OrtStatusPtr {
    // SAFETY: `options` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { give(out, borrow::<Options>(options)?.clone()) })
}

pub(super) unsafe extern "system" fn ReleaseSessionOptions(options: *mut OrtSessionOptions) {
    // SAFETY: null or from `into_raw`, and not used again, by the contract of `ffi`.
    unsafe { release::<Options>(options) };
}

/// The runtime always optimises.
pub(super) unsafe extern "system" fn SetSessionGraphOptimizationLevel(
    _options: *mut OrtSessionOptions,
    _level: GraphOptimizationLevel,
) -> OrtStatusPtr {
    OrtStatusPtr::default()
}

pub(super) unsafe extern "system" fn SetIntraOpNumThreads(
    options: *mut OrtSessionOptions,
    threads: c_int,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `options` is null or live and used by the caller alone, by the contract of `ffi`.
        unsafe { borrow_mut::<Options>(options)? }.threads = usize::try_from(threads).unwrap_or(0);
        Ok(())
    })
}

pub(super) unsafe extern "system" fn CreateSession(
    _env: *const OrtEnv,
    path: *const os_char,
    options: *const OrtSessionOptions,
    out: *mut *mut OrtSession,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `path` is null or a terminated string, by the contract of `ffi`.
        let path = unsafe { native_path(path)? };
        let model = std::fs::read(&path)
            .map_err(|cause| Fault::file(format!("cannot read {}: {cause}", path.display())))?;
        // SAFETY: `options` is null or live, `out` null or writable, by the contract of `ffi`.
        unsafe { open(model, options, out) }
    })
}

pub(super) unsafe extern "system" fn CreateSessionFromArray(
    _env: *const OrtEnv,
    model: *const c_void,
    length: usize,
    options: *const OrtSessionOptions,
    out: *mut *mut OrtSession,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: `model` is null or `length` bytes, `options` null or live, `out` null or writable, by the contract
        // of `ffi`.
        unsafe { open(array(model.cast::<u8>(), length)?.to_vec(), options, out) }
    })
}

/// # Safety
/// `options` is null or live, `out` null or writable.
unsafe fn open(
    model: Vec<u8>,
    options: *const OrtSessionOptions,
    out: *mut *mut OrtSession,
) -> Result<(), Fault> {
    // SAFETY: passed on from the caller.
    unsafe { give(out, Session::load(model, borrow::<Options>(options)?)?) }
}

/// # Safety
/// `path` is null or a terminated string.
#[cfg(unix)]
unsafe fn native_path(path: *const os_char) -> Result<PathBuf, Fault> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: passed on from the caller.
    let bytes = unsafe { string(path)? }.to_bytes();
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

/// # Safety
/// `path` is null or a terminated string of 16-bit units.
#[cfg(windows)]
unsafe fn native_path(path: *const os_char) -> Result<PathBuf, Fault> {
    use std::os::windows::ffi::OsStringExt;
    if path.is_null() {
        return Err(Fault::argument("a null path"));
    }
    // SAFETY: not null, and terminated by the caller's promise: no unit beyond the terminator is read.
    let length = (0..)
        .take_while(|index| unsafe { *path.add(*index) } != 0)
        .count();
    // SAFETY: `length` units were just read.
    Ok(PathBuf::from(std::ffi::OsString::from_wide(unsafe {
        std::slice::from_raw_parts(path, length)
    })))
}

pub(super) unsafe extern "system" fn ReleaseSession(session: *mut OrtSession) {
    // SAFETY: null or from `into_raw`, and not used again, by the contract of `ffi`.
    unsafe { release::<Session>(session) };
}

pub(super) unsafe extern "system" fn SessionGetInputCount(
    session: *const OrtSession,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: `session` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, borrow::<Session>(session)?.inputs.len()) })
}

pub(super) unsafe extern "system" fn SessionGetOutputCount(
    session: *const OrtSession,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, borrow::<Session>(session)?.outputs.len()) })
}

pub(super) unsafe extern "system" fn SessionGetOverridableInitializerCount(
    _session: *const OrtSession,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, 0) })
}

pub(super) unsafe extern "system" fn SessionGetInputName(
    session: *const OrtSession,
    index: usize,
    _allocator: *mut OrtAllocator,
    out: *mut *mut c_char,
) -> OrtStatusPtr {
    // SAFETY: `session` is null or live, `out` null or writable, by the contract of `ffi`.
    guard(|| unsafe { give_string(&port(&borrow::<Session>(session)?.inputs, index)?.name, out) })
}

pub(super) unsafe extern "system" fn SessionGetOutputName(
    session: *const OrtSession,
    index: usize,
    _allocator: *mut OrtAllocator,
    out: *mut *mut c_char,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { give_string(&port(&borrow::<Session>(session)?.outputs, index)?.name, out) })
}

pub(super) unsafe extern "system" fn SessionGetInputTypeInfo(
    session: *const OrtSession,
    index: usize,
    out: *mut *mut OrtTypeInfo,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { give_type(port(&borrow::<Session>(session)?.inputs, index)?, out) })
}

pub(super) unsafe extern "system" fn SessionGetOutputTypeInfo(
    session: *const OrtSession,
    index: usize,
    out: *mut *mut OrtTypeInfo,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { give_type(port(&borrow::<Session>(session)?.outputs, index)?, out) })
}

/// # Safety
/// `out` is null or writable.
unsafe fn give_type(port: &Port, out: *mut *mut OrtTypeInfo) -> Result<(), Fault> {
    // SAFETY: passed on from the caller.
    unsafe {
        give(
            out,
            TypeInfo {
                tensor: port.info.clone(),
            },
        )
    }
}

fn port(ports: &[Port], index: usize) -> Result<&Port, Fault> {
    ports
        .get(index)
        .ok_or_else(|| Fault::argument(format!("port {index} of {}", ports.len())))
}

/// Asked by `ort` for every session: all inputs live in main memory.
pub(super) unsafe extern "system" fn SessionGetMemoryInfoForInputs(
    _session: *const OrtSession,
    out: *mut *const OrtMemoryInfo,
    count: usize,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable for `count` pointers, by the contract of `ffi`.
    guard(|| unsafe { all_cpu(out, count) })
}

/// As for the inputs.
pub(super) unsafe extern "system" fn SessionGetMemoryInfoForOutputs(
    _session: *const OrtSession,
    out: *mut *const OrtMemoryInfo,
    count: usize,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { all_cpu(out, count) })
}

/// # Safety
/// `out` is null or writable for `count` pointers.
unsafe fn all_cpu(out: *mut *const OrtMemoryInfo, count: usize) -> Result<(), Fault> {
    for index in 0..count {
        // wrapping_add: on null this stays a plain number until `put` refuses it.
        // SAFETY: passed on from the caller.
        unsafe {
            put(
                if out.is_null() {
                    out
                } else {
                    out.wrapping_add(index)
                },
                cpu(&CPU),
            )?
        };
    }
    Ok(())
}

pub(super) unsafe extern "system" fn Run(
    session: *mut OrtSession,
    _options: *const OrtRunOptions,
    input_names: *const *const c_char,
    inputs: *const *const OrtValue,
    input_count: usize,
    output_names: *const *const c_char,
    output_count: usize,
    outputs: *mut *mut OrtValue,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: arrays are as long as their counts, strings terminated, values and session live, and `outputs`
        // writable for its count, by the contract of `ffi`. The session is only read: threads may share it.
        unsafe {
            let session = borrow::<Session>(session.cast_const())?;
            let names = array(input_names, input_count)?.iter();
            let given: Vec<(&CStr, &Tensor)> = names
                .zip(array(inputs, input_count)?)
                .map(|(name, value)| Ok((string(*name)?, borrow::<Tensor>(*value)?)))
                .collect::<Result<_, Fault>>()?;
            let asked: Vec<&CStr> = array(output_names, output_count)?
                .iter()
                .map(|name| string(*name))
                .collect::<Result<_, _>>()?;
            if array(outputs.cast_const(), output_count)?
                .iter()
                .any(|output| !output.is_null())
            {
                return Err(Fault::unsupported("outputs into values that the caller made"));
            }
            for (index, tensor) in session.run(&given, &asked)?.into_iter().enumerate() {
                put(outputs.add(index), into_raw(tensor))?;
            }
        }
        Ok(())
    })
}
