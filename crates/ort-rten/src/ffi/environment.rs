//! The environment: a token without state.
#![allow(non_snake_case)] // the table's field names

use std::ffi::{c_char, c_void};

use ort_sys::{OrtEnv, OrtLoggingFunction, OrtLoggingLevel, OrtStatusPtr};

use crate::fault::guard;
use crate::handle::{Environment, give, release};

pub(super) unsafe extern "system" fn CreateEnv(
    _level: OrtLoggingLevel,
    _id: *const c_char,
    out: *mut *mut OrtEnv,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of this module.
    guard(|| unsafe { give(out, Environment) })
}

pub(super) unsafe extern "system" fn CreateEnvWithCustomLogger(
    _logger: OrtLoggingFunction,
    _parameter: *mut c_void,
    _level: OrtLoggingLevel,
    _id: *const c_char,
    out: *mut *mut OrtEnv,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of this module.
    guard(|| unsafe { give(out, Environment) })
}

pub(super) unsafe extern "system" fn ReleaseEnv(env: *mut OrtEnv) {
    // SAFETY: null or from `into_raw(Environment)`, and not used again, by the contract of this module.
    unsafe { release::<Environment>(env) };
}

pub(super) unsafe extern "system" fn GetBuildInfoString() -> *const c_char {
    c"ORT Build Info: backend=ort-rten".as_ptr()
}
