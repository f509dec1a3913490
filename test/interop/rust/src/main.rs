//! Client or server of a Yamux session over plain TCP, for the interop tests:
//!
//!     interop client|server ADDRESS
//!
//! Either side opens streams and accepts those of the other. A stream carries a
//! number (4 bytes), as many bytes, and the end; the answer is their SHA-256 and,
//! for odd numbers of the stream, the bytes. A stream whose number is DROP is
//! dropped by who accepted it, without being read: a reset.

use futures::{future::poll_fn, AsyncReadExt, AsyncWriteExt};
use sha2::{Digest, Sha256};
use std::{error::Error, sync::Arc, task::Poll};
use tokio::sync::{mpsc, oneshot, Semaphore};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
type Socket = Compat<tokio::net::TcpStream>;
type Opened = oneshot::Sender<std::result::Result<Stream, ConnectionError>>;

const STREAMS: u32 = 200;
const DROPS: u32 = 20;
const DROP: u32 = u32::MAX;

fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.len() != 3 {
        return Err("usage: interop client|server ADDRESS".into());
    }
    let (socket, mode) = if args[1] == "client" {
        (tokio::net::TcpStream::connect(&args[2]).await?, Mode::Client)
    } else {
        let listener = tokio::net::TcpListener::bind(&args[2]).await?;
        println!("{}", listener.local_addr()?);
        (listener.accept().await?.0, Mode::Server)
    };
    socket.set_nodelay(true)?;
    let connection = Connection::new(socket.compat(), Config::default(), mode);
    let (open, requests) = mpsc::channel(1);
    let driver = tokio::spawn(drive(connection, requests));
    let asked = ask_all(open).await;
    println!("asked");
    // The other side closes the session when it has asked all it wants too.
    driver.await??;
    asked
}

/// Polls the connection: it opens what is requested and answers what is accepted.
async fn drive(
    mut connection: Connection<Socket>,
    mut requests: mpsc::Receiver<Opened>,
) -> Result<()> {
    let mut waiting: Option<Opened> = None;
    let mut answers = Vec::new();
    loop {
        let next = poll_fn(|cx| loop {
            if waiting.is_none() {
                if let Poll::Ready(Some(request)) = requests.poll_recv(cx) {
                    waiting = Some(request);
                }
            }
            if waiting.is_some() {
                if let Poll::Ready(opened) = connection.poll_new_outbound(cx) {
                    let _ = waiting.take().unwrap().send(opened);
                    continue;
                }
            }
            return connection.poll_next_inbound(cx);
        })
        .await;
        match next {
            Some(Ok(stream)) => answers.push(tokio::spawn(answer(stream))),
            // The other side may well break off when all is done; when it is not, the
            // streams say so.
            Some(Err(e)) => {
                eprintln!("connection: {}", e);
                break;
            }
            None => break,
        }
    }
    for a in answers {
        a.await??;
    }
    Ok(())
}

async fn answer(mut stream: Stream) -> Result<()> {
    let mut head = [0u8; 8];
    stream.read_exact(&mut head).await?;
    let number = u32::from_be_bytes(head[..4].try_into()?);
    if number == DROP {
        return Ok(()); // dropped
    }
    let size = u32::from_be_bytes(head[4..].try_into()?);
    let mut data = Vec::new();
    stream.read_to_end(&mut data).await?;
    if data.len() != size as usize {
        return Err(format!("stream {}: {} bytes of {}", number, data.len(), size).into());
    }
    stream.write_all(&Sha256::digest(&data)).await?;
    if number % 2 == 1 {
        stream.write_all(&data).await?;
    }
    stream.close().await?;
    Ok(())
}

async fn open(requests: &mpsc::Sender<Opened>) -> Result<Stream> {
    let (send, receive) = oneshot::channel();
    requests.send(send).await.map_err(|_| "connection is gone")?;
    Ok(receive.await??)
}

async fn ask_all(requests: mpsc::Sender<Opened>) -> Result<()> {
    let gate = Arc::new(Semaphore::new(100));
    let mut tasks = Vec::new();
    for number in 0..STREAMS {
        let permit = gate.clone().acquire_owned().await?;
        let requests = requests.clone();
        tasks.push(tokio::spawn(async move {
            let _permit = permit;
            ask(open(&requests).await?, number).await
        }));
    }
    for _ in 0..DROPS {
        let requests = requests.clone();
        tasks.push(tokio::spawn(async move { be_dropped(open(&requests).await?).await }));
    }
    for t in tasks {
        t.await??;
    }
    Ok(())
}

/// Mixed sizes: many short, some of more than a window.
fn size(number: u32) -> u32 {
    match number % 10 {
        0 => 0,
        1 => 700_000 + number,
        2 => 262_144,
        3 => 65_524 + number % 40,
        _ => number * number % 5000,
    }
}

fn payload(number: u32) -> Vec<u8> {
    let mut x = number.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    (0..size(number))
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect()
}

async fn ask(stream: Stream, number: u32) -> Result<()> {
    let data = payload(number);
    let (mut reader, mut writer) = stream.split();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&number.to_be_bytes()).await?;
        writer.write_all(&(sent.len() as u32).to_be_bytes()).await?;
        for piece in sent.chunks(1 + number as usize * 997 % 70_000) {
            writer.write_all(piece).await?;
        }
        writer.close().await // a half-close: the answer is still to come
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await?;
    writing.await??;
    if got.len() < 32 || got[..32] != Sha256::digest(&data)[..] {
        return Err(format!("stream {}: wrong hash of {} bytes", number, data.len()).into());
    }
    let back: &[u8] = if number % 2 == 1 { &data } else { &[] };
    if &got[32..] != back {
        return Err(format!("stream {}: {} bytes came back", number, got.len() - 32).into());
    }
    Ok(())
}

async fn be_dropped(mut stream: Stream) -> Result<()> {
    stream.write_all(&DROP.to_be_bytes()).await?;
    stream.write_all(&[0; 4]).await?;
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(_) if !rest.is_empty() => Err("bytes from who dropped the stream".into()),
        _ => Ok(()), // this implementation reads the end or an error after a reset
    }
}
