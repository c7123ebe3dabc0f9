//! Links: whether a provider may be sent to where one points.
//!
//! No link is ever followed here. One to a private address is refused: no provider elsewhere can reach it, and one that
//! runs beside us must not be sent there by a client. Those who follow links read them in different ways, so that a host
//! which some would read as another one is refused as well. Names are not resolved: what an innocent name resolves or
//! redirects to is for whoever follows it to check.

use core::net::{Ipv4Addr, Ipv6Addr};

const NEITHER: &str = "is neither a data URL nor a link; send data:<type>;base64,<data> or https://...";
const UNCLEAR: &str =
    "is a link whose host is unclear; write it plainly, or send the data itself as data:<type>;base64,<data>";
const PRIVATE: &str = "is a link to a private address; send the data itself as data:<type>;base64,<data>";

/// Last labels of names that mean something else on every network.
const PRIVATE_LABELS: [&str; 10] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "private",
    "lan",
    "home",
    "corp",
    "arpa",
];

/// Checks a link that a provider could follow.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or(NEITHER)?;
    let is = |known: &str| scheme.eq_ignore_ascii_case(known);
    if is("gs") && !rest.is_empty() {
        return Ok(());
    }
    if !is("https") && !is("http") {
        return Err(NEITHER);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Some skip blanks and further slashes, take a backslash for a slash, or decode what is encoded.
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '\\' | '%');
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || authority.chars().any(odd) {
        return Err(UNCLEAR);
    }
    match is_private(host) {
        Some(false) => Ok(()),
        Some(true) => Err(PRIVATE),
        None => Err(UNCLEAR),
    }
}

/// Whether a host, with its port, names this machine or a private network; `None` if it cannot be read.
fn is_private(host: &str) -> Option<bool> {
    if let Some(rest) = host.strip_prefix('[') {
        let address: Ipv6Addr = rest.split_once(']')?.0.parse().ok()?;
        return Some(is_private_v6(address));
    }
    let name: String = host
        .split(':')
        .next()
        .unwrap_or_default()
        .chars()
        .map(plain)
        .collect();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    // Digits of other scripts are read as digits by some.
    if name.is_empty() || name.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
        return None;
    }
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Some(is_private_v4(address));
    }
    let labels: Vec<&str> = name.split('.').collect();
    let last = labels.last().copied().unwrap_or_default();
    // 2130706433 and 0x7f.1 are addresses too, to some; no public name ends with a number.
    let numeric = last.starts_with(|c: char| c.is_ascii_digit())
        && last.chars().all(|c| c.is_ascii_hexdigit() || c == 'x');
    Some(labels.len() == 1 || numeric || PRIVATE_LABELS.contains(&last) || spells_private(&labels))
}

/// Full-width letters and the full stops of other scripts stand for the plain ones.
fn plain(c: char) -> char {
    match c {
        '\u{3002}' | '\u{ff0e}' | '\u{ff61}' => '.',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// Whether labels spell a private address: services that resolve `10.0.0.1.example` or `10-0-0-1.example` to it exist.
fn spells_private(labels: &[&str]) -> bool {
    let dotted = labels.windows(4).any(|four| is_spelt(&four.join(".")));
    dotted || labels.iter().any(|label| is_spelt(&label.replace('-', ".")))
}

fn is_spelt(address: &str) -> bool {
    address.parse().is_ok_and(is_private_v4)
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let inner = match segments {
        // Mapped, compatible and translated addresses, and 6to4, carry an IPv4 address.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    };
    inner.is_some_and(is_private_v4)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        // Unique local, link-local and the former site-local addresses; local translation; Teredo, which hides another.
        || segments[0] & 0xfe00 == 0xfc00
        || segments[0] & 0xff80 == 0xfe80
        || segments[..3] == [0x64, 0xff9b, 1]
        || segments[..2] == [0x2001, 0]
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    match (first, second, third) {
        // This network; shared between carriers and their customers; special uses; benchmarks; multicast and reserved.
        (0 | 224.., ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) => true,
        _ => address.is_private() || address.is_loopback() || address.is_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "localhost.",
            "db.internal",
            "printer.local",
            "router.home.arpa",
            "intranet",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "017700000001",
            "0x7f.0.0.1",
            "10.2.3.4:99",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.1",
            "198.18.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "127。0。0。1",
            "１２７.0.0.1",
            "ｌocalhost",
            "127.0.0.1.nip.example",
            "app-10-0-0-8.example.10.0.0.8.example",
            "192-168-1-1.sslip.example",
            "[::1]:80",
            "[::]",
            "[fd00::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[::127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2001:0:1::1]",
        ] {
            assert_eq!(is_private(host), Some(true), "{host}");
        }
        for host in [
            "example.org",
            "8.8.8.8:443",
            "[2001:db8::1]",
            "[::ffff:8.8.8.8]",
            "[2002:808:808::1]",
            "1password.com",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.2.1",
            "cafe.be",
            "bücher.example",
            "8-8-8-8.example.org",
            "cdn-10.example.org",
        ] {
            assert_eq!(is_private(host), Some(false), "{host}");
        }
        for host in ["①②⑦.0.0.1", "[fe80::1%25eth0]", "[::1", "[]", "."] {
            assert_eq!(is_private(host), None, "{host}");
        }
    }

    #[test]
    fn a_link_is_one_that_everybody_reads_alike() {
        for link in [
            "https://example.org/a b.png",
            "HTTPS://example.org",
            "http://user@example.org:8080/?at=127.0.0.1\\x",
            "gs://bucket/a.png",
        ] {
            assert_eq!(check(link), Ok(()), "{link}");
        }
        for link in [
            "http:///127.0.0.1/a.png",
            "http://\t127.0.0.1/a.png",
            "http://127%2e0%2e0%2e1/a.png",
            "http://public.example\\@127.0.0.1/a.png",
            "http://",
            "https://?",
        ] {
            assert_eq!(check(link), Err(UNCLEAR), "{link}");
        }
        for link in [
            "file:///etc/passwd",
            "ftp://example.org/a",
            "https:127.0.0.1",
            "/a.png",
            "",
            "gs://",
        ] {
            assert_eq!(check(link), Err(NEITHER), "{link}");
        }
        for link in ["http://example.org@10.0.0.1/a.png", "Http://LOCALHOST/a.png"] {
            assert_eq!(check(link), Err(PRIVATE), "{link}");
        }
    }
}
