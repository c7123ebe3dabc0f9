//! The raw table: null pointers, indices and types out of range, and the order of releases.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::ffi::{CStr, c_void};
use std::ptr;

use ort_sys::{
    ONNXTensorElementDataType as Element, ONNXType, OrtApi, OrtErrorCode, OrtSession, OrtStatusPtr, OrtValue,
    stub,
};

mod onnx;

/// The code and message of a status; `None` for success.
fn outcome(status: OrtStatusPtr) -> Option<(OrtErrorCode, String)> {
    if status.0.is_null() {
        return None;
    }
    // SAFETY: the status is fresh and consumed once.
    let error = unsafe { stub::Error::consume_sys(status.0) };
    Some((error.code, error.message().to_owned()))
}

fn code(status: OrtStatusPtr) -> Option<OrtErrorCode> {
    outcome(status).map(|(code, _)| code)
}

fn open(api: &OrtApi, model: &[u8]) -> (*mut OrtSession, Option<(OrtErrorCode, String)>) {
    let (mut options, mut session) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: out arguments point to locals; the model outlives the call; options are released once.
    let outcome = unsafe {
        assert_eq!(code((api.CreateSessionOptions)(&raw mut options)), None);
        assert_eq!(code((api.SetIntraOpNumThreads)(options, 1)), None);
        let status = (api.CreateSessionFromArray)(
            ptr::null(),
            model.as_ptr().cast::<c_void>(),
            model.len(),
            options,
            &raw mut session,
        );
        (api.ReleaseSessionOptions)(options);
        outcome(status)
    };
    (session, outcome)
}

#[test]
fn null_arguments_are_refused() {
    let api = ort_rten::api();
    let invalid = Some(OrtErrorCode::ORT_INVALID_ARGUMENT);
    let mut count = 0;
    // SAFETY: null is what is tested; the rest are locals.
    unsafe {
        assert_eq!(
            code((api.CreateEnv)(
                ort_sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
                c"".as_ptr(),
                ptr::null_mut()
            )),
            invalid
        );
        assert_eq!(
            code((api.SessionGetInputCount)(ptr::null(), &raw mut count)),
            invalid
        );
        assert_eq!(
            code((api.CreateSession)(
                ptr::null(),
                ptr::null(),
                ptr::null(),
                ptr::null_mut()
            )),
            invalid
        );
        assert_eq!(
            code((api.GetTensorMutableData)(ptr::null_mut(), ptr::null_mut())),
            invalid
        );
        assert_eq!(
            code((api.GetDimensions)(ptr::null(), ptr::null_mut(), 2)),
            invalid
        );
        (api.ReleaseSession)(ptr::null_mut());
        (api.ReleaseValue)(ptr::null_mut());
        (api.ReleaseEnv)(ptr::null_mut());
    }
}

#[test]
fn ports_are_described_and_indices_checked() {
    let api = ort_rten::api();
    let (session, failed) = open(&api, &onnx::doubling_model());
    assert_eq!(failed, None);
    // SAFETY: the session is live until its release; every out argument is a local; strings and types are released
    // once each, the lent tensor type never.
    unsafe {
        let (mut inputs, mut name, mut allocator) = (0, ptr::null_mut(), ptr::null_mut());
        assert_eq!(code((api.SessionGetInputCount)(session, &raw mut inputs)), None);
        assert_eq!(inputs, 2);
        assert_eq!(
            code((api.GetAllocatorWithDefaultOptions)(&raw mut allocator)),
            None
        );
        assert_eq!(
            code((api.SessionGetInputName)(session, 1, allocator, &raw mut name)),
            None
        );
        assert_eq!(CStr::from_ptr(name), c"ids");
        assert_eq!(code((api.AllocatorFree)(allocator, name.cast())), None);
        let beyond = (api.SessionGetInputName)(session, 2, allocator, &raw mut name);
        assert_eq!(code(beyond), Some(OrtErrorCode::ORT_INVALID_ARGUMENT));

        let (mut info, mut tensor, mut element, mut axes) = (
            ptr::null_mut(),
            ptr::null(),
            Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
            0,
        );
        assert_eq!(
            code((api.SessionGetInputTypeInfo)(session, 1, &raw mut info)),
            None
        );
        assert_eq!(code((api.CastTypeInfoToTensorInfo)(info, &raw mut tensor)), None);
        assert_eq!(code((api.GetTensorElementType)(tensor, &raw mut element)), None);
        assert_eq!(code((api.GetDimensionsCount)(tensor, &raw mut axes)), None);
        assert_eq!((element, axes), (Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 1));
        let mut length = 0;
        assert_eq!(code((api.GetDimensions)(tensor, &raw mut length, 1)), None);
        assert_eq!(length, -1, "unknown");
        (api.ReleaseTypeInfo)(info);
        (api.ReleaseSession)(session);
    }
}

#[test]
fn values_hold_their_elements_and_refuse_what_they_cannot() {
    let api = ort_rten::api();
    let float = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    let mut elements = [1.0_f32, 2.0, 3.0];
    let mut value: *mut OrtValue = ptr::null_mut();
    let create = |shape: &[i64], bytes: usize, element, elements: *mut f32, out: *mut *mut OrtValue| {
        // SAFETY: `elements` points to three floats and `bytes` never claims more; the shape outlives the call.
        unsafe {
            outcome((api.CreateTensorWithDataAsOrtValue)(
                ptr::null(),
                elements.cast(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element,
                out,
            ))
        }
    };
    let short = create(&[4], 12, float, elements.as_mut_ptr(), &raw mut value);
    assert_eq!(
        short.map(|(code, _)| code),
        Some(OrtErrorCode::ORT_INVALID_ARGUMENT)
    );
    let string = create(
        &[1],
        12,
        Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        elements.as_mut_ptr(),
        &raw mut value,
    );
    assert_eq!(
        string.map(|(code, _)| code),
        Some(OrtErrorCode::ORT_NOT_IMPLEMENTED)
    );
    assert!(value.is_null(), "a failed call writes nothing");
    assert_eq!(
        create(&[3], 12, float, elements.as_mut_ptr(), &raw mut value),
        None
    );
    // SAFETY: the value is live until its release, and its address good for three floats.
    unsafe {
        let (mut address, mut kind) = (ptr::null_mut(), ONNXType::ONNX_TYPE_UNKNOWN);
        assert_eq!(code((api.GetTensorMutableData)(value, &raw mut address)), None);
        assert_eq!(std::slice::from_raw_parts(address.cast::<f32>(), 3), elements);
        assert_eq!(code((api.GetValueType)(value, &raw mut kind)), None);
        assert_eq!(kind, ONNXType::ONNX_TYPE_TENSOR);
        (api.ReleaseValue)(value);
    }
}

#[test]
fn models_that_are_none_say_so() {
    let api = ort_rten::api();
    for model in [&b""[..], b"garbage", &[0xff; 4096]] {
        let (session, failed) = open(&api, model);
        assert!(session.is_null());
        let (_, message) = failed.unwrap();
        assert!(message.contains("cannot load the model"), "{message}");
    }
}

#[test]
fn an_unknown_port_and_a_missing_file_are_named() {
    let api = ort_rten::api();
    let (session, _) = open(&api, &onnx::square_model());
    let mut output: *mut OrtValue = ptr::null_mut();
    // SAFETY: arrays are locals of the given lengths; session and options are live and released once.
    unsafe {
        let names = [c"nothing".as_ptr()];
        let status = (api.Run)(
            session,
            ptr::null(),
            ptr::null(),
            ptr::null(),
            0,
            names.as_ptr(),
            1,
            &raw mut output,
        );
        let (code_, message) = outcome(status).unwrap();
        assert_eq!(code_, OrtErrorCode::ORT_INVALID_ARGUMENT);
        assert!(message.contains("nothing") && output.is_null(), "{message}");
        (api.ReleaseSession)(session);

        let (mut options, mut session) = (ptr::null_mut(), ptr::null_mut());
        assert_eq!(code((api.CreateSessionOptions)(&raw mut options)), None);
        #[cfg(unix)]
        {
            let path = c"/nowhere/model.onnx".as_ptr();
            let (_, message) =
                outcome((api.CreateSession)(ptr::null(), path, options, &raw mut session)).unwrap();
            assert!(message.contains("/nowhere/model.onnx"), "{message}");
        }
        assert!(session.is_null());
        (api.ReleaseSessionOptions)(options);
    }
}
