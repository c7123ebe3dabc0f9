//! The HTTP client that all providers share, and the one way a call is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, Url};

use super::fault::{self, Answered, Wire};
use super::settings::{ProviderError, ProviderSettings, WireFormat};
use crate::failure::AttemptError;

/// The most bytes of an error body that are read; the rest tells nothing more.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A pooled client: no waiting for full packets, no compression (latency over bandwidth), no redirects (a key must
/// not follow one), TLS by rustls with ring. Proxies named in the environment are used, but never for the
/// loopback address.
///
/// # Errors
/// When the system's certificates or a proxy's address in the environment cannot be read.
pub fn http_client(connect_timeout: Duration) -> Result<reqwest::Client, ProviderError> {
    // Whoever installed a provider of cryptography first has it; either serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_keepalive(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_adaptive_window(true)
        .referer(false)
        .user_agent(concat!("pointsman/", env!("CARGO_PKG_VERSION")));
    for proxy in proxies().map_err(ProviderError::Client)? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(ProviderError::Client)
}

/// The proxies of the usual variables.
fn proxies() -> Result<Vec<reqwest::Proxy>, reqwest::Error> {
    let read = |upper: &str, lower: &str| {
        std::env::var(upper)
            .or_else(|_| std::env::var(lower))
            .ok()
            .filter(|url| !url.is_empty())
    };
    let direct = read("NO_PROXY", "no_proxy").unwrap_or_default();
    let direct = reqwest::NoProxy::from_string(&format!("localhost,127.0.0.1,::1,{direct}"));
    let mut proxies = Vec::new();
    if let Some(url) = read("HTTPS_PROXY", "https_proxy") {
        proxies.push(reqwest::Proxy::https(url)?.no_proxy(direct.clone()));
    }
    if let Some(url) = read("HTTP_PROXY", "http_proxy") {
        proxies.push(reqwest::Proxy::http(url)?.no_proxy(direct.clone()));
    }
    if let Some(url) = read("ALL_PROXY", "all_proxy") {
        proxies.push(reqwest::Proxy::all(url)?.no_proxy(direct));
    }
    Ok(proxies)
}

/// Everything that calls to one provider have in common.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) wire: Wire,
    http: reqwest::Client,
    headers_for_json: HeaderMap,
    headers_for_events: HeaderMap,
    pub(super) max_response_bytes: usize,
}

/// What a call for a stream has begun.
pub(super) enum Streamed {
    Events(Response),
    /// The server passed over that it was to stream.
    Whole(Bytes),
}

/// What kind of answer a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Json,
    Events,
}

impl Link {
    pub(super) fn new(settings: &ProviderSettings, http: reqwest::Client) -> Result<Self, ProviderError> {
        let headers = headers(settings)?;
        Ok(Self {
            wire: Wire {
                provider: Arc::from(settings.name.as_str()),
            },
            http,
            headers_for_json: accepting("application/json", &headers),
            headers_for_events: accepting("text/event-stream", &headers),
            max_response_bytes: settings.max_response_bytes,
        })
    }

    /// Sends `body` and resolves once a 2xx answer of the expected kind has begun.
    pub(super) async fn post(
        &self,
        url: &Url,
        body: Bytes,
        expect: Expect,
    ) -> Result<Response, AttemptError> {
        let response = self.send(url, body, expect).await?;
        self.check_kind(response, expect).await
    }

    /// Asks for a stream, and takes a whole answer in JSON as well.
    pub(super) async fn post_for_events(&self, url: &Url, body: Bytes) -> Result<Streamed, AttemptError> {
        let response = self.send(url, body, Expect::Events).await?;
        if !is_json(&response) {
            let response = self.check_kind(response, Expect::Events).await?;
            return Ok(Streamed::Events(response));
        }
        let body = self.whole(response).await?;
        match fault::inside_200(&self.wire, &body) {
            Some(error) => Err(error),
            None => Ok(Streamed::Whole(body)),
        }
    }

    /// Sends `body` and resolves once a 2xx answer of any kind has begun.
    async fn send(&self, url: &Url, body: Bytes, expect: Expect) -> Result<Response, AttemptError> {
        let headers = match expect {
            Expect::Json => &self.headers_for_json,
            Expect::Events => &self.headers_for_events,
        };
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers.clone();
        *request.body_mut() = Some(body.into());
        let sent = self.http.execute(request).await;
        let response = sent.map_err(|error| fault::transport(&self.wire, &error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        Ok(response)
    }

    async fn refusal(&self, mut response: Response) -> AttemptError {
        // An error body that breaks off is read as far as it came: the status still tells the most.
        let mut body = BytesMut::new();
        while body.len() < MAX_ERROR_BYTES {
            match response.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) | Err(_) => break,
            }
        }
        fault::classify(
            &self.wire,
            &Answered {
                status: Some(response.status().as_u16()),
                headers: Some(response.headers()),
                body: &body,
            },
        )
    }

    /// A 2xx of the wrong kind is no answer. Providers put errors into a 200 with a JSON body, proxies on the way
    /// put their login pages there.
    async fn check_kind(&self, response: Response, expect: Expect) -> Result<Response, AttemptError> {
        let Some(kind) = response.headers().get(CONTENT_TYPE) else {
            return Ok(response);
        };
        let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
        let is_json = kind.contains("json");
        match expect {
            Expect::Events if kind.contains("text/event-stream") => Ok(response),
            Expect::Json if is_json => Ok(response),
            Expect::Events if is_json => {
                let body = self.whole(response).await?;
                Err(fault::inside_200(&self.wire, &body)
                    .unwrap_or_else(|| fault::nonsense(&self.wire, "a whole answer instead of a stream")))
            }
            // Some servers leave JSON unlabelled.
            Expect::Json if kind.contains("text/plain") || kind.contains("octet-stream") => Ok(response),
            Expect::Events => Err(fault::nonsense(&self.wire, "something that is no event stream")),
            Expect::Json => Err(fault::nonsense(&self.wire, "something that is no JSON")),
        }
    }

    /// The whole body, within the limit.
    pub(super) async fn whole(&self, mut response: Response) -> Result<Bytes, AttemptError> {
        let too_long = || fault::oversized(&self.wire, self.max_response_bytes);
        let limit = self.max_response_bytes as u64;
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let next = |result: Result<Option<Bytes>, reqwest::Error>| {
            result.map_err(|error| fault::transport(&self.wire, &error))
        };
        let Some(first) = next(response.chunk().await)? else {
            return Ok(Bytes::new());
        };
        // Most answers arrive in one piece, which then need not be copied.
        let Some(second) = next(response.chunk().await)? else {
            return if first.len() as u64 > limit {
                Err(too_long())
            } else {
                Ok(first)
            };
        };
        let mut body = BytesMut::from(&first[..]);
        body.extend_from_slice(&second);
        while let Some(piece) = next(response.chunk().await)? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        if body.len() as u64 > limit {
            return Err(too_long());
        }
        Ok(body.freeze())
    }
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.to_ascii_lowercase().contains("json"))
}

/// `headers`, and what kind of answer is asked for.
fn accepting(kind: &'static str, headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.insert(ACCEPT, HeaderValue::from_static(kind));
    headers
}

fn headers(settings: &ProviderSettings) -> Result<HeaderMap, ProviderError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if settings.kind == WireFormat::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = &settings.api_key {
        let bad_key = |_| ProviderError::BadKey {
            provider: settings.name.clone(),
        };
        let (name, value) = match settings.kind {
            WireFormat::Anthropic => (HeaderName::from_static("x-api-key"), key.reveal().to_owned()),
            WireFormat::Gemini => (HeaderName::from_static("x-goog-api-key"), key.reveal().to_owned()),
            WireFormat::OpenAi | WireFormat::Simulated => (AUTHORIZATION, format!("Bearer {}", key.reveal())),
        };
        let mut value = HeaderValue::from_str(&value).map_err(bad_key)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    for (name, value) in &settings.headers {
        let bad_header = || ProviderError::BadHeader {
            provider: settings.name.clone(),
            header: name.clone(),
        };
        let header = HeaderName::try_from(name.as_str()).map_err(|_| bad_header())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad_header())?;
        // Configured headers may hold keys too.
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Reads a base address.
pub(super) fn base_url(settings: &ProviderSettings) -> Result<Url, ProviderError> {
    let bad_url = || ProviderError::BadUrl {
        provider: settings.name.clone(),
        // Before an @ stand a name and a password.
        url: match settings.base_url.rsplit_once('@') {
            Some((_, rest)) => format!("...@{rest}"),
            None => settings.base_url.clone(),
        },
    };
    let url = Url::parse(settings.base_url.trim()).map_err(|_| bad_url())?;
    let is_plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
    if !matches!(url.scheme(), "http" | "https") || !is_plain {
        return Err(bad_url());
    }
    Ok(url)
}

/// `base` with further path segments, which are escaped.
pub(super) fn join(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}
