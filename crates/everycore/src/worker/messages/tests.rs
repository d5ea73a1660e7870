//! Messages, with a primary that the test plays.

use std::task::Poll;

use everycore_ipc::{Incoming, Outgoing};

use super::*;
use crate::protocol::{FromWorker, ToWorker};
use crate::worker::inbox::MESSAGES;
use crate::worker::testing::{FakePrimary, PATIENCE, run};
use crate::worker::{Trouble, Worker};

fn user(primary: &mut FakePrimary) -> Message {
    match primary.receive() {
        Some(Incoming::User(message)) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// Does the primary's part on a thread, while the worker's loop turns.
async fn meanwhile<T: Send + 'static>(
    mut primary: FakePrimary,
    part: fn(&mut FakePrimary) -> T,
) -> (FakePrimary, T) {
    tokio::task::spawn_blocking(move || {
        let done = part(&mut primary);
        (primary, done)
    })
    .await
    .unwrap()
}

#[test]
fn messages_go_both_ways_in_order() {
    let (mut primary, worker) = FakePrimary::with_worker();
    primary.send(Message::json("before anybody listens").unwrap().into());
    run(async {
        assert_eq!(
            worker.recv().await.unwrap().unwrap().parse::<String>().unwrap(),
            "before anybody listens"
        );
        for number in 0..100 {
            worker.send(&number).await.unwrap();
        }
        worker.send_bytes(&b"raw"[..]).await.unwrap();
        tokio::task::yield_now().await;
        for number in 0..100 {
            assert_eq!(user(&mut primary).parse::<i32>().unwrap(), number);
        }
        assert_eq!(user(&mut primary).bytes(), &b"raw"[..]);
        for number in 0..100 {
            primary.send(Message::json(&number).unwrap().into());
        }
        for number in 0..100 {
            assert_eq!(worker.recv().await.unwrap().unwrap().parse::<i32>().unwrap(), number);
        }
    });
}

#[test]
fn handles_travel_with_messages() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    run(async {
        worker.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
        let mut message = user(&mut primary);
        let Some(Handle::TcpListener(arrived)) = message.take_handle() else { panic!("no listener") };
        assert_eq!(arrived.local_addr().unwrap(), listener.local_addr().unwrap());
        primary.send(message.with_handle(Handle::TcpListener(arrived)).into());
        let mut received = worker.recv().await.unwrap().unwrap();
        assert!(matches!(received.take_handle(), Some(Handle::TcpListener(_))));
        assert!(!received.is_request());
    });
}

#[test]
fn questions_find_their_answers_in_both_directions() {
    let (primary, worker) = FakePrimary::with_worker();
    run(async {
        let answering = meanwhile(primary, |primary| match primary.receive() {
            Some(Incoming::Request { id, message }) => {
                let question: i32 = message.parse().unwrap();
                primary.send(Outgoing::reply(id + 1000, Message::json("not the answer").unwrap()));
                primary.send(Outgoing::reply(id, Message::json(&(question * 2)).unwrap()));
            }
            other => panic!("{other:?} instead of a question"),
        });
        let answering = tokio::spawn(answering);
        let answer = worker.request(&21, PATIENCE).await.unwrap();
        assert_eq!(answer.parse::<i32>().unwrap(), 42);

        let (mut primary, ()) = answering.await.unwrap();
        primary.send(Outgoing::request(5, Message::json("who are you").unwrap()));
        let mut question = worker.recv().await.unwrap().unwrap();
        assert!(question.is_request());
        question.reply(&worker.id()).await.unwrap();
        question.reply("twice").await.unwrap();
        worker.send("after it").await.unwrap();
        match primary.receive() {
            Some(Incoming::Reply { id: 5, message }) => assert_eq!(message.parse::<u32>().unwrap(), 7),
            other => panic!("{other:?} instead of the answer"),
        }
        tokio::task::yield_now().await;
        assert_eq!(user(&mut primary).parse::<String>().unwrap(), "after it");

        let nobody_answers = Duration::from_millis(1);
        let error = worker.request("anybody?", nobody_answers).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { after } if after == nobody_answers));
    });
}

#[test]
fn threads_send_ask_and_wait() {
    let (mut primary, worker) = FakePrimary::with_worker();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut question = worker.recv_blocking().unwrap().unwrap();
            question.reply_blocking(&question.parse::<i32>().unwrap()).unwrap();
            assert!(worker.recv_blocking().unwrap().is_none());
        });
        let asking =
            scope.spawn(|| worker.request_blocking("name", PATIENCE).unwrap().parse::<String>().unwrap());
        let Some(Incoming::Request { id, .. }) = primary.receive() else { panic!("no question") };
        primary.send(Outgoing::reply(id, Message::json("the name").unwrap()));
        assert_eq!(asking.join().unwrap(), "the name");
        primary.send(Outgoing::request(9, Message::json(&9).unwrap()));
        assert!(matches!(primary.receive(), Some(Incoming::Reply { id: 9, .. })));
        worker.send_blocking("bye").unwrap();
        assert_eq!(user(&mut primary).parse::<String>().unwrap(), "bye");
        drop(primary);
        receiving.join().unwrap();
    });
    assert!(matches!(worker.send_blocking("nobody hears"), Err(Error::Disconnected)));
    assert!(matches!(worker.request_blocking("nobody", PATIENCE), Err(Error::Disconnected)));
    assert!(worker.is_draining());
}

#[test]
fn a_primary_that_does_not_read_holds_the_worker_back_and_gets_everything_in_the_end() {
    let (primary, worker) = FakePrimary::with_worker();
    let large = "x".repeat(1 << 20);
    run(async {
        let sender = worker.clone();
        let sending = tokio::spawn(async move {
            for number in 0..40 {
                sender.send(&(number, &large)).await.unwrap();
            }
        });
        let waits = std::pin::pin!(sending);
        let (_primary, ()) = meanwhile(primary, |primary| {
            for number in 0..40 {
                let (sent, _) = user(primary).parse::<(i32, String)>().unwrap();
                assert_eq!(sent, number);
            }
        })
        .await;
        waits.await.unwrap();
    });
}

#[test]
fn an_order_gets_through_to_a_program_that_reads_no_messages() {
    let (primary, worker) = FakePrimary::with_worker();
    let told = Arc::new(std::sync::Mutex::new(None));
    let hears = Arc::clone(&told);
    worker.on_trouble(move |trouble| *hears.lock().unwrap() = Some(trouble.clone()));
    run(async {
        let draining = tokio::spawn(worker.draining());
        let (_primary, ()) = meanwhile(primary, |primary| {
            for number in 0..MESSAGES + 10 {
                primary.send(Message::json(&number).unwrap().into());
            }
            primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
        })
        .await;
        draining.await.unwrap();
        for number in 0..MESSAGES {
            assert_eq!(worker.recv().await.unwrap().unwrap().parse::<usize>().unwrap(), number);
        }
    });
    assert_eq!(*told.lock().unwrap(), Some(Trouble::MessagesDropped { count: 10 }));
}

#[test]
fn cancelling_a_receive_loses_no_message() {
    let (mut primary, worker) = FakePrimary::with_worker();
    run(async {
        let receive =
            |worker: Worker| async move { worker.recv().await.unwrap().unwrap().parse::<i32>().unwrap() };
        let mut first = Box::pin(receive(worker.clone()));
        let mut second = Box::pin(receive(worker.clone()));
        for waiting in [&mut first, &mut second] {
            assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        }
        primary.send(Message::json(&1).unwrap().into());
        drop(first);
        assert_eq!(second.await, 1);
    });
}

#[test]
fn leaving_by_own_wish_is_noted_first() {
    let (primary, worker) = FakePrimary::with_worker();
    run(async {
        let noting = tokio::spawn(meanwhile(primary, |primary| {
            assert_eq!(primary.hear(), FromWorker::Leaving);
            primary.tell(&ToWorker::LeaveNoted, vec![]);
        }));
        worker.disconnect().await.unwrap();
        assert!(worker.is_draining() && worker.exited_after_disconnect() && worker.is_connected());
        worker.draining().await;
        let (mut primary, ()) = noting.await.unwrap();
        worker.finish().await;
        assert!(primary.receive().is_none());
    });
}

#[test]
fn a_question_that_finds_no_room_in_the_queue_keeps_its_deadline() {
    let (primary, worker) = FakePrimary::with_worker();
    let link = &worker.core.link;
    for size in [1 << 20, 1 << 10, 1] {
        while link.post(Outgoing::user(Message::raw(vec![b'x'; size]))).is_ok() {}
    }
    let short = Duration::from_millis(10);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let worker = &worker;
        scope.spawn(move || tell.send(worker.request_blocking("anybody?", short)));
        let answer = told.recv_timeout(PATIENCE);
        // Lets go whoever waits still.
        drop(primary);
        let answer = answer.expect("its deadline is one however full the queue is");
        assert!(matches!(answer, Err(Error::TimedOut { after }) if after == short), "{answer:?}");
    });
}

#[test]
fn a_question_that_nobody_hears_fails_at_once() {
    let (primary, worker) = FakePrimary::with_worker();
    run(async {
        let declining = tokio::spawn(meanwhile(primary, |primary| {
            let Some(Incoming::Request { id, .. }) = primary.receive() else { panic!("no question") };
            primary.tell(&ToWorker::Unheard { request: id }, vec![]);
        }));
        let error = worker.request("anybody?", Duration::MAX).await.unwrap_err();
        assert!(matches!(error, Error::Unheard), "{error}");
        declining.await.unwrap();
    });
}

#[test]
fn a_primary_that_breaks_the_protocol_is_taken_for_gone() {
    type Say = fn(&mut FakePrimary);
    let says: [(Say, &str); 2] = [
        (|primary| primary.send(Outgoing::internal(Message::raw("{\"act\":\"dance\"}"))), "'dance'"),
        (|primary| assert_eq!(rustix::io::write(&primary.connection, &[0xff; 64]), Ok(64)), "not a message"),
    ];
    for (say, part) in says {
        let (mut primary, worker) = FakePrimary::with_worker();
        let told = Arc::new(std::sync::Mutex::new(None));
        let hears = Arc::clone(&told);
        worker.on_trouble(move |trouble| *hears.lock().unwrap() = Some(trouble.clone()));
        say(&mut primary);
        breaks_off(&worker);
        let told = told.lock().unwrap();
        let Some(Trouble::PrimaryBroke { reason }) = &*told else { panic!("nobody was told: {told:?}") };
        assert!(reason.contains(part), "{reason}");
    }
    // One that dies says nothing wrong.
    let (primary, worker) = FakePrimary::with_worker();
    drop(primary);
    breaks_off(&worker);
    assert_eq!(worker.troubles(), 0);
}

fn breaks_off(worker: &Worker) {
    run(async {
        worker.draining().await;
        assert!(worker.recv().await.unwrap().is_none());
        assert!(!worker.is_connected());
    });
}

/// Far more than the kernel takes at once.
const LARGE: usize = 8 << 20;

#[test]
fn a_large_message_is_written_whole_though_the_program_waits_for_nothing_else() {
    let (mut primary, worker) = FakePrimary::with_worker();
    worker.send_blocking(&"x".repeat(LARGE)).unwrap();
    assert_eq!(user(&mut primary).parse::<String>().unwrap().len(), LARGE);

    let (primary, worker) = FakePrimary::with_worker();
    run(async {
        worker.send(&"x".repeat(LARGE)).await.unwrap();
        let (_primary, length) =
            meanwhile(primary, |primary| user(primary).parse::<String>().unwrap().len()).await;
        assert_eq!(length, LARGE);
    });
}

#[test]
fn last_words_are_written_whole_however_long() {
    /// More than is written in one go, and no more than is read in the second that last words have.
    const LARGE: usize = 1 << 20;
    let (mut primary, worker) = FakePrimary::with_worker();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| user(&mut primary).parse::<String>().unwrap().len());
        run(async {
            worker.send(&"x".repeat(LARGE)).await.unwrap();
            worker.finish().await;
        });
        assert_eq!(reading.join().unwrap(), LARGE);
    });
    assert!(primary.receive().is_none());

    let (mut primary, worker) = FakePrimary::with_worker();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| user(&mut primary).parse::<String>().unwrap().len());
        worker.send_blocking(&"x".repeat(LARGE)).unwrap();
        worker.finish_blocking();
        assert_eq!(reading.join().unwrap(), LARGE);
    });
}

#[test]
fn without_descriptors_the_rest_of_a_message_is_written_all_the_same() {
    crate::worker::testing::in_own_process("worker::messages::tests::child_without_descriptors");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_without_descriptors() {
    let (primary, worker) = FakePrimary::with_worker();
    run(async {
        // From here on a task drives.
        let draining = tokio::spawn(worker.draining());
        tokio::task::yield_now().await;
        assert!(worker.core.link.driver.is_running() && !worker.core.link.driver.is_thread());
        // Those that are open stay, and there is no other.
        crate::worker::testing::limit_descriptors(3);
        worker.send(&"x".repeat(LARGE)).await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!worker.core.link.lock().is_flushed());
        let (primary, length) =
            meanwhile(primary, |primary| user(primary).parse::<String>().unwrap().len()).await;
        assert_eq!(length, LARGE);
        drop(primary);
        draining.await.unwrap();
    });
}
