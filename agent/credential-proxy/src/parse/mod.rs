//! Text that others wrote flows in, typed values or named errors flow out.
//! Pure; nothing here repeats a secret in an error.

pub mod authorization;
pub mod target;
