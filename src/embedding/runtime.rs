//! Which runtime fastembed computes on: chosen once per process.

use std::path::PathBuf;
use std::sync::OnceLock;

use thiserror::Error;

/// The runtime behind fastembed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The pure-Rust one that is built in.
    Rten,
    /// ONNX Runtime, opened from the library that `ORT_DYLIB_PATH` names.
    OnnxRuntime,
}

/// `ORT_DYLIB_PATH` names a library that cannot be used.
#[derive(Clone, Debug, Error)]
#[error("ORT_DYLIB_PATH names {}, which cannot be opened as ONNX Runtime: {cause}; correct it or unset it", path.display())]
pub struct RuntimeError {
    /// The library.
    pub path: PathBuf,
    /// Why not.
    pub cause: String,
}

/// Sets the runtime up on the first call; tells which it is on every call.
pub(super) fn choose() -> Result<Runtime, RuntimeError> {
    static CHOSEN: OnceLock<Result<Runtime, RuntimeError>> = OnceLock::new();
    CHOSEN
        .get_or_init(
            || match std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
                Some(path) => {
                    let path = PathBuf::from(path);
                    match ort::init_from(&path) {
                        // Opening the library registers it for the process; the builder is not needed.
                        Ok(_) => Ok(Runtime::OnnxRuntime),
                        Err(cause) => Err(RuntimeError {
                            path,
                            cause: cause.to_string(),
                        }),
                    }
                }
                None => {
                    ort::set_api(ort_rten::api());
                    Ok(Runtime::Rten)
                }
            },
        )
        .clone()
}
