//! Bytes and descriptors between two ends of a pair.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use everycore_sys::scm_rights::{
    MAX_DESCRIPTORS, is_back_pressure, receive, receive_one, receive_waiting, send, send_each, send_vectored,
};
use everycore_sys::socket_pair::{Mode, record_pair, set_mode, stream_pair};
use rustix::io::FdFlags;

#[test]
fn a_descriptor_arrives_with_its_bytes_and_closes_on_exec() {
    let (left, right) = stream_pair().unwrap();
    let (mut read, write) = std::io::pipe().unwrap();
    assert_eq!(send(&left, b"hello", &[write.as_fd()]).unwrap(), 5);
    drop(write);

    let (mut buffer, mut fds) = ([0; 64], Vec::new());
    let received = receive(&right, &mut buffer, &mut fds).unwrap();
    assert_eq!((&buffer[..received.bytes], received.truncated), (&b"hello"[..], false));
    let fd = fds.pop().unwrap();
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
    std::fs::File::from(fd).write_all(b"through").unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn a_read_stops_behind_bytes_that_carry_descriptors() {
    let (left, right) = stream_pair().unwrap();
    send(&left, b"plain ", &[]).unwrap();
    send_vectored(&left, &[std::io::IoSlice::new(b"with "), std::io::IoSlice::new(b"one ")], &[left.as_fd()])
        .unwrap();
    send(&left, b"after", &[]).unwrap();
    let (mut buffer, mut fds) = ([0; 64], Vec::new());
    let received = receive(&right, &mut buffer, &mut fds).unwrap();
    assert_eq!((&buffer[..received.bytes], fds.len()), (&b"plain with one "[..], 1));
    let received = receive(&right, &mut buffer, &mut fds).unwrap();
    assert_eq!((&buffer[..received.bytes], fds.len()), (&b"after"[..], 1));
}

#[test]
fn nothing_there_the_end_and_a_closed_peer() {
    let (left, right) = stream_pair().unwrap();
    let (mut buffer, mut fds) = ([0; 8], Vec::new());
    assert_eq!(receive(&right, &mut buffer, &mut fds).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(left);
    assert_eq!(receive(&right, &mut buffer, &mut fds).unwrap().bytes, 0);
    let error = send(&right, b"x", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(!is_back_pressure(&error));
}

#[test]
fn only_who_says_so_waits_and_only_where_the_mode_is_to_wait() {
    let (left, right) = stream_pair().unwrap();
    let (mut buffer, mut fds) = ([0; 8], Vec::new());
    assert_eq!(receive_waiting(&right, &mut buffer, &mut fds).unwrap_err().kind(), ErrorKind::WouldBlock);
    for socket in [&left, &right] {
        set_mode(socket, Mode::Blocking).unwrap();
    }
    assert_eq!(receive(&right, &mut buffer, &mut fds).unwrap_err().kind(), ErrorKind::WouldBlock);
    let sender = std::thread::spawn(move || {
        while send(&left, &[1; 4096], &[]).is_ok() {}
        left
    });
    assert_eq!(receive_waiting(&right, &mut buffer, &mut fds).unwrap().bytes, 8);
    assert!(is_back_pressure(&send(sender.join().unwrap(), &[1], &[]).unwrap_err()));
}

#[test]
fn up_to_253_descriptors_go_in_one_message() {
    let (left, right) = stream_pair().unwrap();
    let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(left.as_fd(), MAX_DESCRIPTORS).collect();
    assert_eq!(send(&left, b"x", &many).unwrap(), 1);
    let (mut buffer, mut fds) = ([0; 8], Vec::new());
    let received = receive(&right, &mut buffer, &mut fds).unwrap();
    assert_eq!((received.bytes, received.truncated, fds.len()), (1, false, 253));

    let too_many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(left.as_fd(), 254).collect();
    assert_eq!(send(&left, b"x", &too_many).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(send(&left, b"", &[left.as_fd()]).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_full_peer_is_back_pressure() {
    let (left, _right) = stream_pair().unwrap();
    let error = loop {
        if let Err(error) = send(&left, &[0; 65536], &[]) {
            break error;
        }
    };
    assert!(is_back_pressure(&error), "{error}");
}

#[test]
fn records_arrive_one_by_one_each_with_its_descriptor() {
    let (left, right) = record_pair().unwrap();
    let files: Vec<OwnedFd> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
    let texts: Vec<String> = (0..100).map(|index| format!("record {index}")).collect();
    let records: Vec<_> = texts.iter().zip(&files).map(|(text, fd)| (text.as_bytes(), fd.as_fd())).collect();
    assert_eq!(send_each(&left, &records).unwrap(), 100);
    let mut buffer = [0; 32];
    for text in &texts {
        let (bytes, fd) = receive_one(&right, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..bytes], text.as_bytes());
        assert!(rustix::io::fcntl_getfd(fd.unwrap()).unwrap().contains(FdFlags::CLOEXEC));
    }
    assert_eq!(receive_one(&right, &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(left);
    assert!(receive_one(&right, &mut buffer).unwrap().is_none());
}

#[test]
fn what_did_not_fit_is_still_to_be_sent() {
    let (left, right) = record_pair().unwrap();
    let records = vec![(&b"0123456789abcdef"[..], left.as_fd()); 2000];
    let sent = send_each(&left, &records).unwrap();
    assert!(sent > 0 && sent < 2000, "{sent}");
    assert!(is_back_pressure(&send_each(&left, &records[sent..]).unwrap_err()));
    let mut buffer = [0; 32];
    for _ in 0..sent {
        assert!(receive_one(&right, &mut buffer).unwrap().unwrap().1.is_some());
    }
    assert_eq!(receive_one(&right, &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(right);
    assert_eq!(send_each(&left, &records).unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(send_each(&left, &[]).unwrap(), 0);
}

#[test]
fn a_record_without_a_descriptor_or_with_two() {
    let (left, right) = record_pair().unwrap();
    send(&left, b"none", &[]).unwrap();
    send(&left, b"two", &[left.as_fd(), right.as_fd()]).unwrap();
    send(&left, b"long record", &[left.as_fd()]).unwrap();
    let mut buffer = [0; 8];
    assert!(matches!(receive_one(&right, &mut buffer), Ok(Some((4, None)))));
    assert!(matches!(receive_one(&right, &mut buffer), Ok(Some((3, Some(_))))));
    assert_eq!(receive_one(&right, &mut buffer).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn the_far_end_reads_back_what_was_not_taken() {
    // What the primary does when a worker is stuck: a duplicate of the worker's end drains the same queue.
    let (ours, workers) = record_pair().unwrap();
    let far_end = workers.try_clone().unwrap();
    let records: Vec<_> = [b"1", b"2", b"3"].into_iter().map(|text| (&text[..], ours.as_fd())).collect();
    send_each(&ours, &records).unwrap();
    let mut buffer = [0; 8];
    assert!(receive_one(&workers, &mut buffer).unwrap().is_some());
    drop(workers);
    let mut back = Vec::new();
    while let Ok(Some((bytes, Some(_)))) = receive_one(&far_end, &mut buffer) {
        back.push(buffer[..bytes].to_vec());
    }
    assert_eq!(back, [b"2", b"3"]);
}
