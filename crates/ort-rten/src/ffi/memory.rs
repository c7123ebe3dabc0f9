//! Memory: there is one kind, the main memory, and one allocator, which only frees strings.
#![allow(non_snake_case)] // the table's field names

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use ort_sys::{
    ORT_API_VERSION, OrtAllocator, OrtAllocatorType, OrtMemType, OrtMemoryInfo, OrtSession, OrtStatusPtr,
};

use crate::fault::{Fault, guard};
use crate::handle::put;

/// What every pointer to memory information points to. Nobody reads it; it lives for ever.
pub(super) static CPU: u8 = 0;

/// The pointer that stands for the main memory.
pub(super) fn cpu(mark: &'static u8) -> *const OrtMemoryInfo {
    ptr::from_ref(mark).cast()
}

pub(super) unsafe extern "system" fn CreateMemoryInfo(
    _name: *const c_char,
    _allocator: OrtAllocatorType,
    _id: c_int,
    _kind: OrtMemType,
    out: *mut *mut OrtMemoryInfo,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`.
    guard(|| unsafe { put(out, cpu(&CPU).cast_mut()) })
}

pub(super) unsafe extern "system" fn CreateCpuMemoryInfo(
    _allocator: OrtAllocatorType,
    _kind: OrtMemType,
    out: *mut *mut OrtMemoryInfo,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, cpu(&CPU).cast_mut()) })
}

/// Nothing was allocated.
pub(super) unsafe extern "system" fn ReleaseMemoryInfo(_info: *mut OrtMemoryInfo) {}

/// All memory is the same: 0 means equal.
pub(super) unsafe extern "system" fn CompareMemoryInfo(
    _a: *const OrtMemoryInfo,
    _b: *const OrtMemoryInfo,
    out: *mut c_int,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, 0) })
}

pub(super) unsafe extern "system" fn MemoryInfoGetName(
    _info: *const OrtMemoryInfo,
    out: *mut *const c_char,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, c"Cpu".as_ptr()) })
}

pub(super) unsafe extern "system" fn MemoryInfoGetId(
    _info: *const OrtMemoryInfo,
    out: *mut c_int,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, 0) })
}

pub(super) unsafe extern "system" fn MemoryInfoGetMemType(
    _info: *const OrtMemoryInfo,
    out: *mut OrtMemType,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, OrtMemType::OrtMemTypeDefault) })
}

pub(super) unsafe extern "system" fn MemoryInfoGetType(
    _info: *const OrtMemoryInfo,
    out: *mut OrtAllocatorType,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, OrtAllocatorType::OrtDeviceAllocator) })
}

/// An allocator whose address may be shared between threads.
struct SharedAllocator(OrtAllocator);

// SAFETY: the table holds plain function pointers and a version; nothing ever writes to it.
unsafe impl Sync for SharedAllocator {}

static ALLOCATOR: SharedAllocator = SharedAllocator(OrtAllocator {
    version: ORT_API_VERSION,
    Alloc: Some(allocate),
    Free: Some(free),
    Info: Some(information),
    Reserve: Some(reserve),
    // SAFETY: the default is a table without functions; every required one is set above.
    ..unsafe { OrtAllocator::default() }
});

/// Strings given out here are freed through the allocator, so only `give_string` may allocate for it.
unsafe extern "system" fn allocate(_allocator: *mut OrtAllocator, _size: usize) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "system" fn reserve(_allocator: *const OrtAllocator, _size: usize) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "system" fn free(_allocator: *mut OrtAllocator, address: *mut c_void) {
    if !address.is_null() {
        // SAFETY: all that this allocator ever gives out are strings from `give_string`, that is from
        // `CString::into_raw`, and each is freed once, by the contract of `ffi`.
        drop(unsafe { CString::from_raw(address.cast()) });
    }
}

unsafe extern "system" fn information(_allocator: *const OrtAllocator) -> *const OrtMemoryInfo {
    cpu(&CPU)
}

/// Gives a copy of `text` to C, to be freed through the allocator.
///
/// # Safety
/// `out` is null or writable.
pub(super) unsafe fn give_string(text: &CString, out: *mut *mut c_char) -> Result<(), Fault> {
    if out.is_null() {
        return Err(Fault::argument("a null pointer where a string is to go"));
    }
    // SAFETY: passed on from the caller, and not null, so that the string is not lost.
    unsafe { put(out, text.clone().into_raw()) }
}

pub(super) unsafe extern "system" fn GetAllocatorWithDefaultOptions(
    out: *mut *mut OrtAllocator,
) -> OrtStatusPtr {
    // SAFETY: `out` is null or writable, by the contract of `ffi`. The table is only read through this pointer.
    guard(|| unsafe { put(out, (&raw const ALLOCATOR.0).cast_mut()) })
}

pub(super) unsafe extern "system" fn CreateAllocator(
    _session: *const OrtSession,
    _memory: *const OrtMemoryInfo,
    out: *mut *mut OrtAllocator,
) -> OrtStatusPtr {
    // SAFETY: as above.
    guard(|| unsafe { put(out, (&raw const ALLOCATOR.0).cast_mut()) })
}

/// The one allocator is never released.
pub(super) unsafe extern "system" fn ReleaseAllocator(_allocator: *mut OrtAllocator) {}

pub(super) unsafe extern "system" fn AllocatorFree(
    allocator: *mut OrtAllocator,
    address: *mut c_void,
) -> OrtStatusPtr {
    guard(|| {
        // SAFETY: null or a string from `give_string`, freed once, by the contract of `ffi`.
        unsafe { free(allocator, address) };
        Ok(())
    })
}
