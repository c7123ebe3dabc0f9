//! The bridge between Rust values and the opaque pointers of the C interface. All conversions happen here.

use std::ffi::CStr;
use std::ptr;

use ort_sys::{OrtEnv, OrtSession, OrtSessionOptions, OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue};

use crate::fault::Fault;
use crate::session::{Options, Session};
use crate::tensor::{Tensor, TensorInfo, TypeInfo};

/// The environment: this runtime has no global state.
pub(crate) struct Environment;

/// A Rust type that stands behind an opaque C type. One to one: a `*mut Raw` that this crate gave out always points
/// to a `Self` from `Box`, or, where its C function says so, into a larger Rust value.
pub(crate) trait Handle: Sized {
    /// The opaque C type.
    type Raw;
}

macro_rules! handles {
    ($($rust:ty => $raw:ty),* $(,)?) => { $(impl Handle for $rust { type Raw = $raw; })* };
}

handles! {
    Environment => OrtEnv,
    Options => OrtSessionOptions,
    Session => OrtSession,
    Tensor => OrtValue,
    TensorInfo => OrtTensorTypeAndShapeInfo,
    TypeInfo => OrtTypeInfo,
}

/// Moves `value` to the heap and hands it to C.
pub(crate) fn into_raw<T: Handle>(value: T) -> *mut T::Raw {
    Box::into_raw(Box::new(value)).cast()
}

/// The value behind an opaque pointer.
///
/// # Safety
/// `raw` is null, or this crate gave it out for `T`, it was not released, and nothing changes it during `'a`.
pub(crate) unsafe fn borrow<'a, T: Handle>(raw: *const T::Raw) -> Result<&'a T, Fault> {
    // SAFETY: the caller promises that a pointer which is not null points to a live `T` that nothing changes.
    unsafe { raw.cast::<T>().as_ref() }.ok_or_else(null)
}

/// The value behind an opaque pointer, to change it.
///
/// # Safety
/// As [`borrow`], and nothing else uses the value during `'a`.
pub(crate) unsafe fn borrow_mut<'a, T: Handle>(raw: *mut T::Raw) -> Result<&'a mut T, Fault> {
    // SAFETY: the caller promises that a pointer which is not null points to a live `T` that nothing else uses.
    unsafe { raw.cast::<T>().as_mut() }.ok_or_else(null)
}

/// Takes the value back from C and drops it. Null is allowed, as in C.
///
/// # Safety
/// `raw` is null, or came from [`into_raw`] for `T` and is not used again.
pub(crate) unsafe fn release<T: Handle>(raw: *mut T::Raw) {
    if !raw.is_null() {
        // SAFETY: the caller promises that it came from `into_raw` for `T`, that is from `Box`, and is not used again.
        drop(unsafe { Box::from_raw(raw.cast::<T>()) });
    }
}

/// Writes through an `out` argument.
///
/// # Safety
/// `out` is null, or valid for a write of `T`.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Fault> {
    if out.is_null() {
        return Err(null());
    }
    // SAFETY: the caller promises that a pointer which is not null is valid for a write. What was there is not
    // dropped: an out argument may be uninitialised.
    unsafe { ptr::write(out, value) };
    Ok(())
}

/// Moves `value` to the heap and hands it to C through an `out` argument.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn give<T: Handle>(out: *mut *mut T::Raw, value: T) -> Result<(), Fault> {
    if out.is_null() {
        return Err(null()); // before the value leaves Rust: nobody would release it
    }
    // SAFETY: passed on from the caller.
    unsafe { put(out, into_raw(value)) }
}

/// An array argument.
///
/// # Safety
/// `first` is null, or points to `count` initialised elements that nothing changes during `'a`.
pub(crate) unsafe fn array<'a, T>(first: *const T, count: usize) -> Result<&'a [T], Fault> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(null());
    }
    // SAFETY: not null, and the caller promises `count` initialised elements.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// A string argument.
///
/// # Safety
/// `text` is null, or points to a NUL-terminated string that nothing changes during `'a`.
pub(crate) unsafe fn string<'a>(text: *const std::ffi::c_char) -> Result<&'a CStr, Fault> {
    if text.is_null() {
        return Err(null());
    }
    // SAFETY: not null, and the caller promises a terminated string.
    Ok(unsafe { CStr::from_ptr(text) })
}

fn null() -> Fault {
    Fault::argument("a null pointer where a value is needed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_out_and_comes_back() {
        let raw = into_raw(Options::default());
        // SAFETY: `raw` is live until the release below, and used by this thread alone.
        unsafe {
            borrow_mut::<Options>(raw).unwrap().threads = 3;
            assert_eq!(borrow::<Options>(raw).unwrap().threads, 3);
            release::<Options>(raw);
        }
    }

    #[test]
    fn null_is_refused_or_harmless() {
        // SAFETY: null is allowed everywhere here.
        unsafe {
            assert!(borrow::<Session>(ptr::null()).is_err());
            assert!(borrow_mut::<Session>(ptr::null_mut()).is_err());
            release::<Session>(ptr::null_mut());
            assert!(put(ptr::null_mut(), 1_u8).is_err());
            assert!(array::<u8>(ptr::null(), 1).is_err());
            assert!(array::<u8>(ptr::null(), 0).unwrap().is_empty());
            assert!(string(ptr::null()).is_err());
        }
    }
}
