//! Numbers with a meaning: each has a type, so that a slot is never mistaken for a worker.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// Wraps a number.
            pub const fn new(number: u32) -> Self {
                $name(number)
            }

            /// The number itself.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One worker process. Counted from 1 and never given twice.
    ///
    /// ```
    /// assert_eq!(everycore_core::WorkerId::new(3).to_string(), "3");
    /// ```
    WorkerId
}
number! {
    /// A place among the workers, from 0, that the primary keeps filled; one worker after the other sits in it.
    Slot
}
number! {
    /// Which reload a worker came with. Counted from 1; a reload that failed has used its number up.
    Generation
}
number! {
    /// A bound address. What it stands for (address, protocol, index) is known to the shell alone.
    ListenerKey
}
number! {
    /// A class of workers, in the order in which the classes were named, from 0.
    ClassKey
}
