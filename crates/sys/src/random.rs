//! Bytes nobody can foresee, for keys.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `buffer` from the kernel's generator. Waits only in the first moments after boot, until that is seeded.
///
/// # Errors
/// The kernel refuses, as a sandbox that forbids the call makes it.
pub fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(count) => buffer = &mut buffer[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_large_buffer_is_filled_to_its_end() {
        let mut buffer = vec![0; 1 << 20];
        super::fill(&mut buffer).unwrap();
        // A stretch of 64 zero bytes by chance: once in 2^492 times.
        assert!(buffer.chunks(64).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    }
}
