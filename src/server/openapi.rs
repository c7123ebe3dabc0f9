//! `GET /openapi.json`: every path, for people who generate clients and for tools that ask what there is.

use http::{HeaderValue, header};

/// The description, written by hand beside this file.
const DOCUMENT: &str = include_str!("openapi.json");

/// The description.
pub async fn document() -> axum::response::Response {
    let mut response = axum::response::Response::new(axum::body::Body::from(DOCUMENT));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
