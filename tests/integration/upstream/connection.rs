//! One connection, request after request.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::wire::{Frames, Wire};
use super::{Dealt, Fault, House, INPUT_TOKENS, full_answer, pieces, tokens};

type Io<T> = std::io::Result<T>;

/// Answers until the caller hangs up or the script closes the connection.
pub(super) async fn serve(mut socket: TcpStream, house: &House) -> Io<()> {
    socket.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some((path, body)) = read_request(&mut socket, &mut buffer).await? {
        let number = house.requests.fetch_add(1, Ordering::Relaxed);
        let ask = ask_of(&body);
        house.heard.lock().unwrap().clone_from(&body);
        let stream = match house.wire {
            Wire::Gemini => path.contains("streamGenerateContent"),
            Wire::OpenAi | Wire::Anthropic => {
                serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|body| body["stream"] == true)
            }
        };
        let fault = (house.script)(number, &ask);
        let mut dealt = Dealt {
            fault,
            stream,
            ask,
            input_tokens: 0,
            output_tokens: 0,
            hung_up: true,
        };
        let mut said = String::new();
        let at_once = house.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        house.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let kept = deal(&mut socket, house, &mut dealt, &mut said).await;
        house.at_once.fetch_sub(1, Ordering::Relaxed);
        dealt.hung_up = kept.is_err();
        if dealt.input_tokens > 0 {
            dealt.output_tokens = tokens(&said);
        }
        house.books.lock().unwrap().push(dealt);
        if !kept? {
            break;
        }
    }
    Ok(())
}

/// Does what the script says. `said` grows by every word that was sent. True if the connection may be used again.
async fn deal(socket: &mut TcpStream, house: &House, dealt: &mut Dealt, said: &mut String) -> Io<bool> {
    let wire = house.wire;
    match dealt.fault {
        Fault::Status(status, retry_after) => {
            let wait = retry_after.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
            let body = wire.error(status, status_message(status));
            whole(socket, status, &wait, "application/json", &body).await?;
        }
        Fault::Says(status, headers, body) => {
            let kind = if status == 200 && dealt.stream {
                "text/event-stream"
            } else {
                "application/json"
            };
            whole(socket, status, headers, kind, body).await?;
        }
        Fault::QuotaExhausted => {
            whole(socket, 429, "", "application/json", wire.quota_exhausted()).await?;
        }
        Fault::BadRequest => {
            let body = wire.error(400, "messages must alternate");
            whole(socket, 400, "", "application/json", &body).await?;
        }
        Fault::TooLong => {
            whole(socket, 400, "", "application/json", wire.too_long()).await?;
        }
        Fault::TlsFailure => socket.write_all(b"this is no TLS record\r\n\r\n").await?,
        Fault::WrongContentType => {
            whole(socket, 200, "", "text/html", "<html>please log in</html>").await?;
        }
        Fault::ResetInHeaders => {
            dealt.input_tokens = INPUT_TOKENS;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-ty").await?;
            wait(socket, 250).await?;
            socket.set_zero_linger()?;
            return Ok(false);
        }
        Fault::Redirect => {
            let elsewhere = format!("location: http://{}/elsewhere\r\n", socket.local_addr()?);
            whole(socket, 307, &elsewhere, "text/plain", "").await?;
        }
        Fault::HangBeforeHeaders => {
            dealt.input_tokens = INPUT_TOKENS;
            return hang(socket).await;
        }
        Fault::HangAfterHeaders => {
            dealt.input_tokens = INPUT_TOKENS;
            let kind = if dealt.stream {
                "text/event-stream"
            } else {
                "application/json"
            };
            head(socket, kind).await?;
            return hang(socket).await;
        }
        Fault::Informational => {
            let early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            socket.write_all(early).await?;
            return answer_or_events(socket, house, dealt, said).await;
        }
        Fault::ClosesAtOnce => {
            answer_or_events(socket, house, dealt, said).await?;
            return Ok(false);
        }
        _ => return answer_or_events(socket, house, dealt, said).await,
    }
    Ok(!matches!(dealt.fault, Fault::TlsFailure))
}

async fn answer_or_events(
    socket: &mut TcpStream,
    house: &House,
    dealt: &mut Dealt,
    said: &mut String,
) -> Io<bool> {
    if dealt.stream {
        events(socket, house, dealt, said).await
    } else {
        answer(socket, house, dealt, said).await
    }
}

async fn answer(socket: &mut TcpStream, house: &House, dealt: &mut Dealt, said: &mut String) -> Io<bool> {
    let wire = house.wire;
    let text = full_answer(&house.name, &dealt.ask);
    let body = match dealt.fault {
        Fault::ErrorInside200 => wire.error(503, "the model is overloaded"),
        Fault::GarbageJson => "{\"choices\": [{\"mess".to_owned() + "\u{fffd}\u{1}garbage",
        Fault::Oversized => wire.whole(&"x".repeat(4 << 20), INPUT_TOKENS, 1 << 20),
        _ => wire.whole(&text, INPUT_TOKENS, tokens(&text)),
    };
    if dealt.fault != Fault::ErrorInside200 {
        dealt.input_tokens = INPUT_TOKENS;
    }
    match dealt.fault {
        Fault::ResetMidStream | Fault::Truncated => {
            let start = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            socket.write_all(start.as_bytes()).await?;
            socket.write_all(&body.as_bytes()[..body.len() / 2]).await?;
            close(socket, dealt.fault)?;
            return Ok(false);
        }
        Fault::SlowFirstToken(ms) => wait(socket, ms).await?,
        Fault::Drip => {
            head(socket, "application/json").await?;
            return drip(socket, body.as_bytes()).await;
        }
        Fault::Compressed => {
            let squeezed = "\u{1f}\u{8b}\u{8}squeezed";
            whole(
                socket,
                200,
                "content-encoding: gzip\r\n",
                "application/json",
                squeezed,
            )
            .await?;
            return Ok(true);
        }
        Fault::BadUtf8 => {
            head(socket, "application/json").await?;
            chunk(socket, &not_utf8(&body)).await?;
            socket.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        Fault::Trailers | Fault::ByteByByte => {
            head(socket, "application/json").await?;
            send(socket, dealt.fault, body.as_bytes()).await?;
            socket.write_all(b"0\r\nx-checksum: 7\r\n\r\n").await?;
            said.push_str(&text);
            return Ok(true);
        }
        Fault::Trickle(ms) => {
            head(socket, "application/json").await?;
            for piece in body.as_bytes().chunks(body.len().div_ceil(4)) {
                wait(socket, ms).await?;
                chunk(socket, piece).await?;
            }
            socket.write_all(b"0\r\n\r\n").await?;
            said.push_str(&text);
            return Ok(true);
        }
        _ => {}
    }
    whole(socket, 200, "", "application/json", &body).await?;
    if !matches!(
        dealt.fault,
        Fault::ErrorInside200 | Fault::GarbageJson | Fault::Oversized
    ) {
        said.push_str(&text);
    }
    Ok(true)
}

async fn events(socket: &mut TcpStream, house: &House, dealt: &mut Dealt, said: &mut String) -> Io<bool> {
    let wire = house.wire;
    let pieces = pieces(&house.name, &dealt.ask);
    let output = tokens(&pieces.concat());
    let Frames {
        opening,
        content,
        closing,
    } = wire.frames(&pieces, INPUT_TOKENS, output);
    let encoding = if dealt.fault == Fault::Compressed {
        "text/event-stream\r\ncontent-encoding: gzip"
    } else {
        "text/event-stream"
    };
    head(socket, encoding).await?;
    if dealt.fault != Fault::ErrorInside200 {
        dealt.input_tokens = INPUT_TOKENS;
    }
    match dealt.fault {
        Fault::ErrorInside200 => {
            chunk(socket, wire.error_event("the model is overloaded").as_bytes()).await?;
            socket.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        Fault::GarbageJson => {
            chunk(socket, b"data: {\"choices\": [{\"del\x01garbage\n\n").await?;
            socket.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        Fault::Oversized => {
            let event = format!("data: {}\n\n", "x".repeat(4 << 20));
            chunk(socket, event.as_bytes()).await?;
            return hang(socket).await;
        }
        Fault::Drip => return drip(socket, opening.as_bytes()).await,
        Fault::Compressed => {
            chunk(socket, "\u{1f}\u{8b}\u{8}squeezed\n\n".as_bytes()).await?;
            socket.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        Fault::BadUtf8 => {
            chunk(socket, &not_utf8(&content[0])).await?;
            socket.write_all(b"0\r\n\r\n").await?;
            return Ok(true);
        }
        _ => {}
    }
    send(socket, dealt.fault, opening.as_bytes()).await?;
    if let Fault::SlowFirstToken(ms) = dealt.fault {
        wait(socket, ms).await?;
    }
    for (index, frame) in content.iter().enumerate() {
        if let Fault::Trickle(ms) = dealt.fault {
            wait(socket, ms).await?;
        }
        if index == 2 && matches!(dealt.fault, Fault::ResetMidStream | Fault::Truncated) {
            // What was said must have arrived before the reset throws it away.
            wait(socket, 250).await?;
            close(socket, dealt.fault)?;
            return Ok(false);
        }
        send(socket, dealt.fault, frame.as_bytes()).await?;
        said.push_str(&pieces[index]);
    }
    send(socket, dealt.fault, closing.as_bytes()).await?;
    if dealt.fault == Fault::DuplicateDone {
        chunk(socket, wire.end_again().as_bytes()).await?;
    }
    let trailer = if dealt.fault == Fault::Trailers {
        "x-checksum: 7\r\n"
    } else {
        ""
    };
    socket.write_all(format!("0\r\n{trailer}\r\n").as_bytes()).await?;
    Ok(true)
}

async fn whole(socket: &mut TcpStream, status: u16, headers: &str, kind: &str, body: &str) -> Io<()> {
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: {kind}\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    socket
        .write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .await
}

async fn head(socket: &mut TcpStream, kind: &str) -> Io<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    socket.write_all(head.as_bytes()).await
}

async fn chunk(socket: &mut TcpStream, bytes: &[u8]) -> Io<()> {
    let size = format!("{:x}\r\n", bytes.len());
    socket
        .write_all(&[size.as_bytes(), bytes, b"\r\n"].concat())
        .await
}

/// The bytes in one chunk, or each in its own.
async fn send(socket: &mut TcpStream, fault: Fault, bytes: &[u8]) -> Io<()> {
    if fault != Fault::ByteByByte {
        return chunk(socket, bytes).await;
    }
    for byte in bytes {
        chunk(socket, &[*byte]).await?;
    }
    Ok(())
}

/// A byte now and then, from the beginning of `bytes` again and again, until the caller hangs up.
async fn drip(socket: &mut TcpStream, bytes: &[u8]) -> Io<bool> {
    for byte in bytes.iter().cycle() {
        chunk(socket, &[*byte]).await?;
        wait(socket, 100).await?;
    }
    Ok(false)
}

/// The text with a byte in the middle of a word that is in no character.
fn not_utf8(text: &str) -> Vec<u8> {
    let at = text
        .find("answers")
        .or_else(|| text.find("text"))
        .unwrap_or(text.len() / 2);
    [&text.as_bytes()[..at], &[0xff], &text.as_bytes()[at..]].concat()
}

/// Waits, unless the caller hangs up meanwhile.
async fn wait(socket: &mut TcpStream, ms: u64) -> Io<()> {
    tokio::select! {
        () = sleep(Duration::from_millis(ms)) => Ok(()),
        gone = hang(socket) => gone.map(drop),
    }
}

/// Does nothing until the caller hangs up, which is an error.
async fn hang(socket: &mut TcpStream) -> Io<bool> {
    let mut byte = [0];
    // Nobody who waits for an answer says more: what comes is the end.
    let _end = socket.read(&mut byte).await?;
    Err(std::io::ErrorKind::ConnectionAborted.into())
}

fn close(socket: &mut TcpStream, fault: Fault) -> Io<()> {
    if fault == Fault::ResetMidStream {
        // A close with a linger of zero is a reset.
        socket.set_zero_linger()?;
    }
    Ok(())
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Io<Option<(String, String)>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
        if buffer.first() == Some(&0x16) {
            // A TLS greeting; whatever it asks for, the script is asked what to do with it.
            buffer.clear();
            return Ok(Some((String::new(), String::new())));
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let path = String::from_utf8_lossy(&buffer[..end])
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().unwrap());
    while buffer.len() < end + length {
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let rest = buffer.split_off(end + length);
    let body = String::from_utf8(buffer.split_off(end)).unwrap();
    *buffer = rest;
    Ok(Some((path, body)))
}

/// The prompt's own word, by which answers that were mixed up are found out.
fn ask_of(body: &str) -> String {
    let Some(start) = body.rfind("ask-") else {
        return String::new();
    };
    body[start..]
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect()
}

fn status_message(status: u16) -> &'static str {
    match status {
        429 => "too many requests",
        503 | 529 => "the service is overloaded",
        _ => "something broke",
    }
}
