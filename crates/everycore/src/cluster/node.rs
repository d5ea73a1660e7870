//! Real Node workers: what they say, and what the primary does about it.

pub(crate) mod acts;
mod answers;
mod preload;

pub(in crate::cluster) use answers::unconfirmed;
pub(in crate::cluster) use preload::Preload;
