//! Real Node workers: what they say, and what the primary does about it.

pub(crate) mod acts;
mod answers;
mod preload;
mod settings;

pub(in crate::cluster) use answers::unconfirmed;
pub(in crate::cluster) use preload::Preload;
pub use settings::{NodeSettings, WorkerPipes, WorkerStdio};
