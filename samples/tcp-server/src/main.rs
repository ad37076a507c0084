//! A TCP server over wasi:sockets: keeps values as long as it runs. `set KEY VALUE`, `get KEY`, `quit`; one line each.

mod command;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use wstd::io::{self, AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};

use command::Reply;

/// A line that is longer ends the connection.
const LONGEST_LINE: usize = 4096;

type Values = Rc<RefCell<BTreeMap<String, String>>>;

#[wstd::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7000").await?;
    println!("listening on {}", listener.local_addr()?);
    let values = Values::default();
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        let (stream, values) = (stream?, Rc::clone(&values));
        wstd::runtime::spawn(async move {
            if let Err(error) = serve(stream, &values).await {
                eprintln!("a connection broke: {error}");
            }
        })
        .detach();
    }
    Ok(())
}

async fn serve(mut stream: TcpStream, values: &Values) -> io::Result<()> {
    let mut line = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        for byte in &piece[..count] {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let reply = command::run(&String::from_utf8_lossy(&line), &mut values.borrow_mut());
            line.clear();
            match reply {
                Reply::Line(text) => stream.write_all(format!("{text}\n").as_bytes()).await?,
                Reply::End => return Ok(()),
            }
        }
        if line.len() > LONGEST_LINE {
            return stream.write_all(b"error: the line is too long\n").await;
        }
    }
}
