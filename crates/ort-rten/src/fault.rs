//! Errors, and how they and panics become the statuses of the C interface.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::stub::Error;
use ort_sys::{OrtErrorCode, OrtStatusPtr};

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Fault {
    code: OrtErrorCode,
    message: String,
}

impl Fault {
    /// An argument breaks the function's contract.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self {
            code: OrtErrorCode::ORT_INVALID_ARGUMENT,
            message: message.into(),
        }
    }

    /// The bytes are not a model that can be run.
    pub(crate) fn model(message: impl Into<String>) -> Self {
        Self {
            code: OrtErrorCode::ORT_INVALID_GRAPH,
            message: message.into(),
        }
    }

    /// A file cannot be read.
    pub(crate) fn file(message: impl Into<String>) -> Self {
        Self {
            code: OrtErrorCode::ORT_NO_SUCHFILE,
            message: message.into(),
        }
    }

    /// The computation failed.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Self {
            code: OrtErrorCode::ORT_RUNTIME_EXCEPTION,
            message: message.into(),
        }
    }

    /// This runtime cannot do that.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self {
            code: OrtErrorCode::ORT_NOT_IMPLEMENTED,
            message: message.into(),
        }
    }

    fn into_status(self) -> OrtStatusPtr {
        // A status message is a C string: an inner NUL would end it early, and ort-sys panics on one.
        Error::new_sys(self.code, self.message.replace('\0', "\u{fffd}"))
    }
}

/// Runs `call`; a null status on success. A panic becomes a status too, because unwinding into C is undefined.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Fault>) -> OrtStatusPtr {
    // AssertUnwindSafe: what `call` was changing is either dropped with it or a C object whose owner sees the failure.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => OrtStatusPtr::default(),
        Ok(Err(fault)) => fault.into_status(),
        Err(panic) => Fault::run(format!("the runtime panicked: {}", panic_message(&*panic))).into_status(),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: OrtStatusPtr) -> String {
        assert!(!status.0.is_null());
        // SAFETY: the status came from `into_status` and is consumed once.
        unsafe { Error::consume_sys(status.0) }.message().to_owned()
    }

    #[test]
    fn faults_panics_and_inner_nuls_become_statuses() {
        assert!(guard(|| Ok(())).0.is_null());
        assert_eq!(message(guard(|| Err(Fault::run("a\0b")))), "a\u{fffd}b");
        let panicked = message(guard(|| std::panic::panic_any("boom".to_owned())));
        assert_eq!(panicked, "the runtime panicked: boom");
    }
}
