//! Refusals of too large messages, put into the contract's words.
//!
//! tonic refuses them with its own texts and mostly as `OUT_OF_RANGE`, which means something else in a contract.

use http::HeaderMap;
use tonic::{Code, Status};

/// How tonic 0.14 begins its refusals: of a message, of one that grows too large when decompressed, of its own answer.
const REFUSALS: [(Code, &str); 3] = [
    (Code::OutOfRange, "Error, decoded message length too large"),
    (Code::ResourceExhausted, "Error decompressing: size limit"),
    (Code::OutOfRange, "Error, encoded message length too large"),
];

/// Replaces the status in `headers`, a head or trailers, where it is such a refusal.
pub(super) fn rewrite(headers: &mut HeaderMap, too_large: fn() -> Status) {
    let suspects = [Code::OutOfRange, Code::ResourceExhausted];
    let code = headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()));
    if !code.is_some_and(|code| suspects.contains(&code)) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if !REFUSALS.iter().any(|(code, text)| status.code() == *code && status.message().starts_with(text)) {
        return;
    }
    for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
        headers.remove(name);
    }
    if too_large().add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("8"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(status: &Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        rewrite(&mut headers, || Status::resource_exhausted("message too large"));
        Status::from_header_map(&headers).unwrap()
    }

    #[test]
    fn refusals_of_tonic_get_the_texts_of_the_contract() {
        for (code, text) in REFUSALS {
            let status = rewritten(&Status::new(code, format!("{text}: found 9 bytes")));
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "message too large"));
        }
    }

    #[test]
    fn a_status_of_the_service_stays() {
        let own =
            Status::with_details(Code::OutOfRange, "position lies ahead", bytes::Bytes::from_static(b"x"));
        let status = rewritten(&own);
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (own.code(), own.message(), own.details())
        );
    }
}
