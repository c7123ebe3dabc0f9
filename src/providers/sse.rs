//! Server-sent events, as the WHATWG HTML standard defines their parsing: any split of the bytes gives the same
//! events; CR, LF and CRLF end lines; a byte order mark is skipped; comments are dropped.
//!
//! One departure: an event that the end of the stream cuts off is yielded, because several servers leave out the
//! blank line after their last event. Whoever reads it finds out whether its data is whole.

use memchr::memchr2;

/// One event. `data` has its lines joined by line feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event` field; empty when there was none.
    pub name: &'a [u8],
    /// The `data` field.
    pub data: &'a [u8],
}

/// A line or an event is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct EventTooLong {
    /// The limit.
    pub limit: usize,
}

/// The state between two pieces of a stream.
#[derive(Debug)]
pub struct SseDecoder {
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    first_line: bool,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
}

impl SseDecoder {
    /// A decoder that refuses events of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            first_line: true,
            after_cr: false,
        }
    }

    /// Takes the next bytes and calls `each` for every event they complete.
    ///
    /// # Errors
    /// Whatever `each` returns, and [`EventTooLong`]; the decoder is of no use afterwards.
    pub fn feed<E: From<EventTooLong>>(
        &mut self,
        mut bytes: &[u8],
        each: &mut impl FnMut(SseEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                if bytes[0] == b'\n' {
                    bytes = &bytes[1..];
                    continue;
                }
            }
            let Some(end) = memchr2(b'\r', b'\n', bytes) else {
                self.check_length(self.line.len() + bytes.len())?;
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.take_line(&bytes[..end], each)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.take_line(&line, each)?;
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The stream is over: yields what it cut off.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn finish<E: From<EventTooLong>>(
        &mut self,
        each: &mut impl FnMut(SseEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.take_line(&line, each)?;
        }
        self.dispatch(each)
    }

    fn check_length(&self, length: usize) -> Result<(), EventTooLong> {
        if length > self.limit {
            return Err(EventTooLong { limit: self.limit });
        }
        Ok(())
    }

    fn take_line<E: From<EventTooLong>>(
        &mut self,
        mut line: &[u8],
        each: &mut impl FnMut(SseEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(each);
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => return Ok(()),
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                self.check_length(self.data.len() + value.len() + 1)?;
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.check_length(value.len())?;
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch<E: From<EventTooLong>>(
        &mut self,
        each: &mut impl FnMut(SseEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let result = if self.has_data {
            each(SseEvent {
                name: &self.name,
                data: &self.data,
            })
        } else {
            Ok(())
        };
        self.name.clear();
        self.data.clear();
        self.has_data = false;
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, String);

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
        let mut decoder = SseDecoder::new(1 << 20);
        let mut events = Vec::new();
        let mut each = |event: SseEvent<'_>| {
            events.push((
                String::from_utf8_lossy(event.name).into_owned(),
                String::from_utf8_lossy(event.data).into_owned(),
            ));
            Ok::<(), EventTooLong>(())
        };
        for piece in pieces {
            decoder.feed(piece, &mut each).unwrap();
        }
        decoder.finish(&mut each).unwrap();
        events
    }

    fn pair(name: &str, data: &str) -> Owned {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn reads_every_line_ending_comments_names_and_several_data_lines() {
        let text = b"\xEF\xBB\xBFevent: ping\r\ndata: {}\r\n\r\n: keepalive\n\ndata:a\ndata: b\rdata\r\rid: 7\nretry: 3\n\ndata:  c\n\n";
        assert_eq!(
            decode([&text[..]]),
            [pair("ping", "{}"), pair("", "a\nb\n"), pair("", " c")]
        );
    }

    #[test]
    fn yields_an_event_that_the_end_cuts_off() {
        assert_eq!(decode([&b"data: [DONE]"[..]]), [pair("", "[DONE]")]);
        assert_eq!(decode([&b"data: [DONE]\n"[..]]), [pair("", "[DONE]")]);
    }

    #[test]
    fn an_event_of_comments_and_names_alone_is_none() {
        assert_eq!(decode([&b": hello\n\nevent: x\n\n"[..]]), []);
    }

    #[test]
    fn refuses_a_line_without_end_and_an_event_without_end() {
        let mut each = |_: SseEvent<'_>| Ok::<(), EventTooLong>(());
        let mut decoder = SseDecoder::new(100);
        let mut fed = Ok(());
        for _ in 0..20 {
            fed = fed.and_then(|()| decoder.feed(b"data: aaaaaa", &mut each));
        }
        assert_eq!(fed, Err(EventTooLong { limit: 100 }));
        let mut decoder = SseDecoder::new(100);
        let mut fed = Ok(());
        for _ in 0..20 {
            fed = fed.and_then(|()| decoder.feed(b"data: aaaaaa\n", &mut each));
        }
        assert_eq!(fed, Err(EventTooLong { limit: 100 }));
    }

    proptest! {
        #[test]
        fn any_split_parses_alike(
            lines in prop::collection::vec(
                prop::sample::select(vec!["data: x", "data:yé€", "event: e", ": c", "", "", "id: 1", "data"]), 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n"]), 20),
            cuts in prop::collection::vec(0_usize..200, 0..12),
            bom in any::<bool>(),
        ) {
            let mut text = if bom { "\u{feff}".to_owned() } else { String::new() };
            for (line, end) in lines.iter().zip(&ends) {
                text.push_str(line);
                text.push_str(end);
            }
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            prop_assert_eq!(decode(pieces), decode([bytes]));
            prop_assert_eq!(decode(bytes.chunks(1)), decode([bytes]));
        }
    }
}
