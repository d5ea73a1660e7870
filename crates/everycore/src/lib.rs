//! One port, every core: a cluster of worker processes behind shared listeners.

#![forbid(unsafe_code)]

mod address;
mod error;
mod protocol;

pub use address::{Address, AddressError, BoundAddress, IntoAddress};
pub use error::{Error, Result};
