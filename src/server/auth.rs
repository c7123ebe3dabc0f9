//! Clients' keys. Only digests are kept; a key itself never reaches a log, an error or a file.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::failure::FailureKind;
use crate::server::error::ApiError;

/// The keys that may use this router. Empty: anyone on the loopback address may.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys {
    keys: Arc<[ClientKey]>,
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
        Self { keys }
    }

    /// Whether anyone may come in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// `authentication` when keys are set and none of them is in `Authorization: Bearer` or `x-api-key`.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.is_open() {
            return Ok(Client("anyone".into()));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

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
