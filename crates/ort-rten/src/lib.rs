//! The part of ONNX Runtime's C interface that [`ort`](https://docs.rs/ort) needs for plain CPU inference, on the
//! pure-Rust runtime [`rten`](https://docs.rs/rten). `ort::set_api(ort_rten::api())` before any other call of `ort`.
//!
//! # Layout
//! [`tensor`] and [`session`] are safe Rust and know nothing of C. [`fault`] turns their errors, and panics, into
//! statuses. [`handle`] is the only place where a Rust value becomes an opaque pointer and back. [`ffi`] holds the
//! functions of the table, each a thin shell around the safe part.
//!
//! # Invariants
//! 1. A pointer that leaves through an `out` argument was made by `handle::into_raw` for exactly the Rust type that
//!    the opaque C type stands for, and is released once, by that type's `Release` function.
//! 2. Nothing unwinds into C: every function that can fail runs inside `fault::guard`.
//! 3. Every pointer argument is checked for null before use. That a pointer which is not null is live and of the
//!    right type is the caller's promise, as in ONNX Runtime itself.
//! 4. A tensor owns its elements. `CreateTensorWithDataAsOrtValue` copies instead of borrowing: a later change of
//!    the caller's buffer is not seen. `ort` hands its buffer over and reads it back through the value, so it cannot
//!    tell the difference.
//! 5. A session is immutable once made: `Run` takes it by shared reference, so that threads may share it.
//!
//! # What is left out
//! Element types other than `f32`, `i32` and `i64` (narrowed to `i32`, which is what `rten` computes in; a value that
//! does not fit is an error), sequences, maps, strings, bindings, custom operators, execution providers. Functions
//! that are not implemented answer `ORT_NOT_IMPLEMENTED`.

mod envelope;
mod fault;
mod ffi;
mod handle;
mod session;
mod tensor;

pub use ffi::api;
