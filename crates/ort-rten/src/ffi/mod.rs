//! The functions of the table. Each checks its pointers, calls the safe part, and hands the result over.
//!
//! Every function here is `unsafe` for one reason: its pointers come from C. The contract is ONNX Runtime's: a
//! pointer is null or live and of the type that the signature says, `out` arguments are null or writable, arrays are
//! as long as their count says, and a value is not changed by another thread meanwhile.

mod environment;
mod info;
mod memory;
mod session;
mod value;

use ort_sys::OrtApi;

/// The function table to hand to `ort::set_api`. Functions that are not implemented answer `ORT_NOT_IMPLEMENTED`.
#[must_use]
pub fn api() -> OrtApi {
    use environment::*;
    use info::*;
    use memory::*;
    use session::*;
    use value::*;
    OrtApi {
        // environment
        CreateEnv,
        CreateEnvWithCustomLogger,
        ReleaseEnv,
        GetBuildInfoString,
        // session
        CreateSessionOptions,
        CloneSessionOptions,
        ReleaseSessionOptions,
        SetSessionGraphOptimizationLevel,
        SetIntraOpNumThreads,
        CreateSession,
        CreateSessionFromArray,
        ReleaseSession,
        SessionGetInputCount,
        SessionGetOutputCount,
        SessionGetOverridableInitializerCount,
        SessionGetInputName,
        SessionGetOutputName,
        SessionGetInputTypeInfo,
        SessionGetOutputTypeInfo,
        SessionGetMemoryInfoForInputs,
        SessionGetMemoryInfoForOutputs,
        Run,
        // values
        CreateTensorAsOrtValue,
        CreateTensorWithDataAsOrtValue,
        ReleaseValue,
        IsTensor,
        GetValueType,
        GetTensorMutableData,
        GetTypeInfo,
        GetTensorTypeAndShape,
        GetTensorElementTypeAndShapeDataReference,
        GetTensorMemoryInfo,
        // type information
        ReleaseTypeInfo,
        CastTypeInfoToTensorInfo,
        GetOnnxTypeFromTypeInfo,
        CreateTensorTypeAndShapeInfo,
        ReleaseTensorTypeAndShapeInfo,
        SetTensorElementType,
        SetDimensions,
        SetSymbolicDimensions,
        GetTensorElementType,
        GetDimensionsCount,
        GetDimensions,
        GetSymbolicDimensions,
        GetTensorShapeElementCount,
        // memory
        CreateMemoryInfo,
        CreateCpuMemoryInfo,
        ReleaseMemoryInfo,
        CompareMemoryInfo,
        MemoryInfoGetName,
        MemoryInfoGetId,
        MemoryInfoGetMemType,
        MemoryInfoGetType,
        GetAllocatorWithDefaultOptions,
        CreateAllocator,
        ReleaseAllocator,
        AllocatorFree,
        ..ort_sys::stub::api()
    }
}
