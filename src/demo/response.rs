//! Builders for responses of the demo application.

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::DemoBody;

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<DemoBody> {
    page(status, TEXT, body)
}

pub(super) fn page(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<DemoBody> {
    let mut response = Response::new(DemoBody::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
