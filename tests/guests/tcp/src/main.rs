//! TCP over wasi:sockets 0.2: `serve ADDRESS` echoes, `call ADDRESS TEXT` sends and prints what comes back,
//! `pair ADDRESS TEXT` does both in one program, `lookup NAME` prints addresses.

use wstd::io::{self, AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};

#[wstd::main]
async fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |i: usize| args.get(i).map_or("", String::as_str);
    match word(0) {
        "serve" => serve(TcpListener::bind(word(1)).await?).await,
        "call" => call(word(1), word(2)).await,
        "lookup" => lookup(word(1)),
        "pair" => {
            let listener = TcpListener::bind(word(1)).await?;
            wstd::runtime::spawn(async move {
                let _ = serve(listener).await;
            })
            .detach();
            call(word(1), word(2)).await?;
            // The runtime would wait for the server, too.
            std::process::exit(0)
        }
        other => {
            eprintln!("unknown: {other}");
            std::process::exit(64)
        }
    }
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        let stream = stream?;
        wstd::runtime::spawn(async move {
            let _ = io::copy(&stream, &stream).await;
        })
        .detach();
    }
    Ok(())
}

async fn call(address: &str, text: &str) -> io::Result<()> {
    // Parsed here: std's own parsing would link name look-up of the C library.
    let address: std::net::SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut buffer = vec![0; text.len()];
    let mut have = 0;
    while have < buffer.len() {
        match stream.read(&mut buffer[have..]).await? {
            0 => break,
            n => have += n,
        }
    }
    println!("{}", String::from_utf8_lossy(&buffer[..have]));
    Ok(())
}

fn lookup(name: &str) -> io::Result<()> {
    use wasip2::sockets::{instance_network::instance_network, ip_name_lookup::resolve_addresses};
    let failed = |code| std::io::Error::other(format!("{code:?}"));
    let addresses = resolve_addresses(&instance_network(), name).map_err(failed)?;
    loop {
        addresses.subscribe().block();
        match addresses.resolve_next_address().map_err(failed)? {
            Some(address) => println!("{address:?}"),
            None => return Ok(()),
        }
    }
}
