//! Accepts connections: all that wait, or a fair share of them.
