//! The fixed record beside each handed-over connection: who connected, as the primary's `accept` said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Length in bytes of every record.
pub(crate) const LEN: usize = 24;

/// Writes a peer address, `None` for a Unix peer, and the class of the connection. The latter is for the primary, should
/// it have to take the connection back: 0 stands for none.
pub(crate) fn encode(peer: Option<SocketAddr>, class: u8) -> [u8; LEN] {
    let mut record = [0; LEN];
    record[1] = class;
    match peer {
        None => {}
        Some(SocketAddr::V4(v4)) => {
            record[0] = 4;
            record[2..4].copy_from_slice(&v4.port().to_be_bytes());
            record[4..8].copy_from_slice(&v4.ip().octets());
        }
        Some(SocketAddr::V6(v6)) => {
            record[0] = 6;
            record[2..4].copy_from_slice(&v6.port().to_be_bytes());
            record[4..20].copy_from_slice(&v6.ip().octets());
            record[20..24].copy_from_slice(&v6.scope_id().to_be_bytes());
        }
    }
    record
}

/// The class in a record.
pub(crate) fn class(record: &[u8]) -> u8 {
    record.get(1).copied().unwrap_or(0)
}

/// Reads the address in a record; `None` for one that is not a record at all.
pub(crate) fn decode(record: &[u8]) -> Option<Option<SocketAddr>> {
    let record: &[u8; LEN] = record.try_into().ok()?;
    let port = u16::from_be_bytes([record[2], record[3]]);
    match record[0] {
        0 => Some(None),
        4 => {
            let ip = Ipv4Addr::new(record[4], record[5], record[6], record[7]);
            Some(Some(SocketAddr::new(IpAddr::V4(ip), port)))
        }
        6 => {
            let ip: [u8; 16] = record[4..20].try_into().ok()?;
            let scope = u32::from_be_bytes([record[20], record[21], record[22], record[23]]);
            Some(Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope))))
        }
        _ => None,
    }
}
