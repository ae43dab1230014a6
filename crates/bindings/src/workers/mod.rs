//! The role, which passes between the threads of a dispatcher, and what belongs to one of them.

pub(crate) mod bound;
pub(crate) mod greenlets;
pub(crate) mod home;
pub(crate) mod protect;
pub(crate) mod role;
pub(crate) mod shutdown;
pub(crate) mod signals;
pub(crate) mod traces;
