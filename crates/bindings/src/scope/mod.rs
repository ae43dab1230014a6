//! Scopes: requests that are cancelled, awaited and counted together, and waits without a coroutine.

pub(crate) mod failures;
pub(crate) mod members;
pub(crate) mod sleep;
mod tree;
