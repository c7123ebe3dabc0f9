//! Clients' keys. Only digests are kept; a key itself never reaches a log, an error or a file.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::config::is_host_name;
use crate::failure::FailureKind;
use crate::server::error::ApiError;

/// How a page stands to what it asks, as the browser sees it; no page can set it.
const FETCH_SITE: &str = "sec-fetch-site";

/// The keys that may use this router. Empty: anyone on the loopback address may, by a name of this machine.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys {
    keys: Arc<[ClientKey]>,
    /// Names by which it may be asked for without a key, beside those of this machine; in lower case.
    hosts: Arc<[String]>,
}

/// One key, by its digest.
#[derive(Clone, Debug)]
struct ClientKey {
    digest: [u8; 32],
    name: Arc<str>,
}

/// Who asks: a name that may be logged and budgeted (`key-3f2a91c0`), or nobody in particular.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client(pub Arc<str>);

impl ClientKeys {
    /// From the keys themselves, which are forgotten at once.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys
            .into_iter()
            .filter(|key| !key.is_empty())
            .map(|key| {
                let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
                let mut name = String::from("key-");
                for byte in &digest[..4] {
                    let _ = write!(name, "{byte:02x}");
                }
                ClientKey {
                    digest,
                    name: name.into(),
                }
            })
            .collect();
        Self {
            keys,
            hosts: Arc::default(),
        }
    }

    /// The same, where without a key it may be asked for by these names too.
    #[must_use]
    pub fn reached_as(self, hosts: &[String]) -> Self {
        Self {
            hosts: hosts.into(),
            ..self
        }
    }

    /// Whether anyone may come in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// `authentication` when keys are set and none of them is in `Authorization: Bearer` or `x-api-key`;
    /// `permission_denied` when none is set and a page of another site asks, or somebody by another host's name.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.is_open() {
            self.check_host(headers)?;
            return if is_foreign_page(headers) {
                Err(ApiError::new(
                    FailureKind::PermissionDenied,
                    "A web page of another site may not use this router. Set a client key (`server.api_keys_env`) and send it to allow that.",
                ))
            } else {
                Ok(Client("anyone".into()))
            };
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                value
                    .strip_prefix("Bearer ")
                    .or_else(|| value.strip_prefix("bearer "))
            });
        let Some(key) = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
        else {
            return Err(ApiError::new(
                FailureKind::Authentication,
                "No API key was sent. Send one as `Authorization: Bearer <key>` or `x-api-key: <key>`.",
            ));
        };
        // Digests are compared, so the time it takes tells nothing of a key.
        let digest: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        self.keys.iter().find(|known| known.digest == digest).map(|known| Client(Arc::clone(&known.name))).ok_or_else(
            || {
                ApiError::new(
                    FailureKind::Authentication,
                    "This API key is not known here. The router's keys are in the variables that `server.api_keys_env` names.",
                )
            },
        )
    }

    /// Refuses what is sent to another host's name. A web page can have its own name point to this machine (DNS
    /// rebinding): for the browser it then asks its own site, and `Origin` says nothing. But the browser names the host.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(host) = headers.get(header::HOST) else {
            // No browser leaves it out.
            return Ok(());
        };
        let name = host.to_str().map_or("", host_name);
        let listed = self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
        if listed || is_no_site(name) || name.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let why = if is_host_name(name) {
            format!(
                "and not as {name:?}: a web page could have its own name point here. If that name is yours, such as a proxy's \
                 in front, set `server.allowed_hosts = [{name:?}]`;"
            )
        } else {
            "but the `Host` header of this request holds none of these, nor any other name of a host. Have the client, or \
             the proxy in front, send the name or address that it reaches this router by;"
                .to_owned()
        };
        Err(ApiError::new(
            FailureKind::PermissionDenied,
            format!(
                "Without a client key this router is reached by an IP address or by a name of this machine or its network, \
                 {why} or set a client key (`server.api_keys_env`) and send it."
            ),
        ))
    }
}

/// The name or address in a `Host` header, without port and brackets.
fn host_name(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.strip_suffix('.').unwrap_or(name)
}

/// Browsers look for names below `localhost`, such as that of a program's window, on this machine only.
fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || is_below(name, ".localhost")
}

/// Whether no web site can have this name: one word, or a name below those that the public name service does not have,
/// of this machine (RFC 6761), the local link (RFC 6762), and private networks (`internal`, such as a container's
/// `host.docker.internal`).
fn is_no_site(name: &str) -> bool {
    let one_word = !name.is_empty() && !name.contains(['.', '[', ']']);
    one_word || is_local(name) || is_below(name, ".local") || is_below(name, ".internal")
}

fn is_below(name: &str, domain: &str) -> bool {
    let at = name.len().checked_sub(domain.len());
    at.is_some_and(|at| name.as_bytes()[at..].eq_ignore_ascii_case(domain.as_bytes()))
}

/// Whether a page of another site sends this. Any page may have a browser post to a loopback address without asking
/// first, and so would spend money and change prices where no key is asked for; but the browser says whose page it is.
fn is_foreign_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let Ok(origin) = origin.to_str() else { return true };
    match origin.split_once("://") {
        // A page whose site is kept secret, such as one in a sandbox.
        None => origin == "null",
        Some(("http" | "https", site)) => {
            // A proxy may name another host than the browser asked.
            let own = headers.get(header::HOST).is_some_and(|host| host == site)
                || headers
                    .get(FETCH_SITE)
                    .is_some_and(|relation| relation == "same-origin");
            !own && !is_this_machine(site)
        }
        // A program's own window or an extension of the browser, which the user has installed.
        Some(_) => false,
    }
}

/// Whether a page of this machine itself asks.
fn is_this_machine(site: &str) -> bool {
    let Ok(authority) = site.parse::<Authority>() else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    is_local(host)
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn without_keys_no_other_hosts_name_lets_anybody_in() {
        let refusal = |keys: &ClientKeys, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            // What a page says whose name points to this machine now.
            headers.insert(
                header::ORIGIN,
                HeaderValue::from_str(&format!("http://{host}")).unwrap(),
            );
            headers.insert(FETCH_SITE, HeaderValue::from_static("same-origin"));
            headers.insert("x-api-key", HeaderValue::from_static("secret-1"));
            keys.authenticate(&headers).err()
        };
        let open = ClientKeys::default().reached_as(&["llm.example.test".to_owned()]);
        for host in [
            "evil.test",
            "evil.test:8080",
            "localhost.evil.test",
            "localhost.test",
            "internal.evil.test",
            "127.0.0.1.evil.test:8080",
            "sub.llm.example.test",
        ] {
            let error = refusal(&open, host).unwrap_or_else(|| panic!("{host} was let in"));
            assert_eq!(error.kind, FailureKind::PermissionDenied);
            assert!(
                error.message.contains("`server.allowed_hosts = ["),
                "{}",
                error.message
            );
        }
        let told = refusal(&open, "evil.test:8080").unwrap().message;
        assert!(
            told.contains("`server.allowed_hosts = [\"evil.test\"]`"),
            "{told}"
        );
        // What the configuration would refuse is not recommended.
        for host in ["", ".", ":8080", "*.example.test", "m\u{fc}nchen.test"] {
            let told = refusal(&open, host).unwrap_or_else(|| panic!("{host} was let in"));
            assert_eq!(told.kind, FailureKind::PermissionDenied);
            let told = told.message;
            assert!(
                !told.contains("allowed_hosts") && told.contains("`Host` header"),
                "{told}"
            );
        }
        for host in [
            "127.0.0.1:8080",
            "192.168.1.7",
            "[::1]:8080",
            "localhost:8080",
            "LocalHost.",
            "tauri.localhost:3000",
            "router:8080",
            "host.docker.internal:8080",
            "desk.local",
            "llm.example.test",
            "LLM.example.test:443",
        ] {
            assert!(refusal(&open, host).is_none(), "{host}");
        }
        assert!(open.authenticate(&HeaderMap::new()).is_ok(), "no browser asks so");
        // Who has a key may come by any name.
        assert!(refusal(&ClientKeys::new(["secret-1"]), "evil.test").is_none());
    }

    #[test]
    fn without_keys_pages_of_other_sites_are_refused() {
        let refused = |keys: &ClientKeys, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("router.test:8080"));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            headers.insert("x-api-key", HeaderValue::from_static("secret-1"));
            keys.authenticate(&headers).err().map(|error| error.kind)
        };
        let open = ClientKeys::default().reached_as(&["router.test".to_owned()]);
        for origin in [
            "https://evil.test",
            "null",
            "http://localhost.evil.test",
            "http://notlocalhost",
            "http://router.test",
        ] {
            assert_eq!(
                refused(&open, origin),
                Some(FailureKind::PermissionDenied),
                "{origin}"
            );
        }
        for origin in [
            "http://router.test:8080",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://0.0.0.0:3000",
            "http://tauri.localhost",
            "app://desktop",
        ] {
            assert_eq!(refused(&open, origin), None, "{origin}");
        }
        // Who has a key may come from anywhere.
        assert_eq!(refused(&ClientKeys::new(["secret-1"]), "https://evil.test"), None);
    }

    #[test]
    fn its_own_page_may_ask_behind_a_proxy_that_names_another_host() {
        for (relation, allowed) in [("same-origin", true), ("same-site", false), ("cross-site", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8080"));
            headers.insert(header::ORIGIN, HeaderValue::from_static("https://router.test"));
            headers.insert(FETCH_SITE, HeaderValue::from_static(relation));
            let found = ClientKeys::default().authenticate(&headers);
            assert_eq!(found.is_ok(), allowed, "{relation}");
        }
    }

    #[test]
    fn both_headers_work_and_a_wrong_key_is_refused_without_being_repeated() {
        let keys = ClientKeys::new(["secret-1", "secret-2"]);
        let mut headers = HeaderMap::new();
        assert!(keys.authenticate(&headers).is_err());
        headers.insert("x-api-key", HeaderValue::from_static("secret-2"));
        let client = keys.authenticate(&headers).unwrap();
        headers.clear();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret-2"));
        assert_eq!(keys.authenticate(&headers).unwrap(), client);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer guess"));
        let error = keys.authenticate(&headers).unwrap_err();
        assert!(!error.message.contains("guess"));
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
