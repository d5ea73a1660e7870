//! Classes of workers by source address, with the role of each in its arguments: two `normal` workers, and a `special`
//! one for 127.0.0.2. Nothing of a connection is read before its worker has it.
//!
//! Each connection is answered with the worker's slot, its class and its role: slots 0 and 1 are normal, 2 is special.
//!
//! `cargo run -p everycore --example route [address]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Class, Cluster, Event, Policy, Route, Worker};
use tokio::io::AsyncWriteExt;

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let role = args.next().unwrap_or_default();
    let route = Route::new()
        .class(Class::new("normal", 2).arg("--normal"))
        .class(Class::new("special", 1).policy(Policy::RoundRobin).arg("--special"))
        .rule("127.0.0.2", "special")?;
    Cluster::builder()
        .args([&address])
        .route(route)
        .on_event(|_, event| {
            if let Event::Listening { worker, address } = event {
                println!("{worker} listens on {address}");
            }
        })
        .run_with(|worker| serve(worker, address, role))?;
    Ok(())
}

async fn serve(worker: Worker, address: String, role: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{} {} {role}\n", worker.slot(), worker.class().unwrap_or("-"));
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
