//! What a client asks of the cache: `x-router-cache`, else `Cache-Control`.

use std::time::Duration;

/// How the cache is to be used for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An answer that is there is given; a new one is kept.
    Read,
    /// A new answer is asked for and kept.
    Refresh,
    /// Neither is anything given nor kept.
    Off,
}

/// A client's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How.
    pub mode: Mode,
    /// An older answer than this is not wanted.
    pub max_age: Option<Duration>,
}

/// Not a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("x-router-cache is \"{0}\", but must be one of off, read, refresh")]
pub struct BadMode(pub String);

impl Wish {
    /// Reads both headers. Our own says the mode if it is there; HTTP clients and proxies send the other unasked.
    ///
    /// # Errors
    /// A mode that there is not.
    pub fn read(own: Option<&str>, cache_control: Option<&str>) -> Result<Self, BadMode> {
        let mut wish = Self {
            mode: Mode::Read,
            max_age: None,
        };
        for directive in cache_control.unwrap_or_default().split(',') {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => wish.mode = Mode::Off,
                "no-cache" if wish.mode == Mode::Read => wish.mode = Mode::Refresh,
                "max-age" => {
                    let seconds = value.trim().trim_matches('"').parse().ok();
                    wish.max_age = seconds.map(Duration::from_secs).or(wish.max_age);
                }
                _ => {}
            }
        }
        if let Some(own) = own {
            wish.mode = match own.trim().to_ascii_lowercase().as_str() {
                "off" => Mode::Off,
                "read" => Mode::Read,
                "refresh" => Mode::Refresh,
                _ => return Err(BadMode(own.to_owned())),
            };
        }
        Ok(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_header_wins_and_unknown_directives_are_ignored() {
        let read = |own, other| Wish::read(own, other).unwrap();
        let wish = |mode, max_age: Option<u64>| Wish {
            mode,
            max_age: max_age.map(Duration::from_secs),
        };
        assert_eq!(read(None, None), wish(Mode::Read, None));
        assert_eq!(read(None, Some("No-Cache")), wish(Mode::Refresh, None));
        assert_eq!(read(None, Some("no-store, no-cache")), wish(Mode::Off, None));
        assert_eq!(read(None, Some("no-cache, no-store")), wish(Mode::Off, None));
        assert_eq!(
            read(None, Some("max-age=60, private")),
            wish(Mode::Read, Some(60))
        );
        assert_eq!(read(None, Some("max-age=soon")), wish(Mode::Read, None));
        assert_eq!(read(Some("READ"), Some("no-cache")), wish(Mode::Read, None));
        assert_eq!(read(Some("refresh"), Some("no-store")), wish(Mode::Refresh, None));
        assert_eq!(read(Some("off"), None), wish(Mode::Off, None));
        assert_eq!(Wish::read(Some("on"), None), Err(BadMode("on".into())));
    }
}
