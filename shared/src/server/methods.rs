//! What the server knows of its methods, read from their descriptors: the full name, and how many answers a call has.
//!
//! Names from here are the only method names in metrics: a caller who invents paths cannot add time series.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use metrics::Histogram;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// How many codes gRPC has: 0 to 16.
const CODES: usize = 17;
/// Prefix of the services for tools, whose streams may be ended at any time.
const REFLECTION: &str = "grpc.reflection.";

/// A method of a served service.
#[derive(Debug)]
pub(super) struct Method {
    /// Full name without the leading slash: `package.Service/Method`.
    pub(super) name: Arc<str>,
    /// Whether a call has any number of answers, and so may live for ever.
    pub(super) streams: bool,
    /// Whether a call may be ended when draining begins.
    pub(super) dispensable: bool,
    durations: [OnceLock<Histogram>; CODES],
}

/// All methods by path.
#[derive(Debug)]
pub(super) struct Methods {
    known: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

impl Methods {
    /// The methods of these descriptor sets.
    pub(super) fn of(sets: &[FileDescriptorSet]) -> Self {
        let files = sets.iter().flat_map(|set| &set.file);
        let services = files.flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
        let methods = services.flat_map(|(package, service)| {
            let service_name = if package.is_empty() {
                service.name().to_owned()
            } else {
                format!("{package}.{}", service.name())
            };
            service.method.iter().map(move |method| {
                let name = format!("{service_name}/{}", method.name());
                (format!("/{name}"), Arc::new(Method::new(name, method.server_streaming())))
            })
        });
        Self { known: methods.collect(), other: Arc::new(Method::new("_OTHER".to_owned(), false)) }
    }

    /// The method with this path; one stand-in for all paths that are not served.
    pub(super) fn get(&self, path: &str) -> &Arc<Method> {
        self.known.get(path).unwrap_or(&self.other)
    }
}

impl Method {
    fn new(name: String, streams: bool) -> Self {
        let dispensable = name.starts_with(REFLECTION);
        Self { name: name.into(), streams, dispensable, durations: [const { OnceLock::new() }; CODES] }
    }

    /// Where durations of calls that ended with `code` are recorded, in seconds.
    pub(super) fn durations(&self, code: Code) -> &Histogram {
        self.durations[code as usize].get_or_init(|| {
            metrics::histogram!(
                "rpc_server_call_duration_seconds",
                "rpc_method" => Arc::clone(&self.name),
                "rpc_status_code" => code_name(code),
            )
        })
    }
}

/// The code's name in the specification.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn methods_are_known_by_path_and_others_are_one() {
        let set = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let methods = Methods::of(&[set]);
        let check = methods.get("/grpc.health.v1.Health/Check");
        assert_eq!((&*check.name, check.streams), ("grpc.health.v1.Health/Check", false));
        assert!(methods.get("/grpc.health.v1.Health/Watch").streams);
        assert_eq!(&*methods.get("/invented/1").name, "_OTHER");
        assert!(Arc::ptr_eq(methods.get("/invented/1"), methods.get("/invented/2")));
    }
}
