//! What a client of the credential proxy writes: the request line's target with its headers, inside a tunnel and
//! outside, and the key. No panic; what is accepted names one host, and a path that has one reading.
#![no_main]

use credential_proxy::environment::{Environment, Scheme};
use credential_proxy::parse::{authorization, target, target::Authority};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, Vec<(u8, &[u8])>)| {
    let (text, fields) = parts;
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, PROXY_AUTHORIZATION][usize::from(name % 4)].clone();
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    if let Ok(presented) = authorization::parse(&headers) {
        assert!(!presented.binding.is_empty() && !presented.binding.contains(':'));
    }
    if let Ok(authority) = Authority::parse(text) {
        assert_eq!(Authority::parse(&authority.to_string()), Ok(authority.clone()));
        let environment = Environment::read(|_| Some(text.to_owned()));
        let _ = environment.proxy(Scheme::Https, &authority);
    }
    let Ok(uri) = text.parse::<Uri>() else { return };
    for target in [target::connect(&Method::CONNECT, &uri, &headers), target::absolute(&Method::GET, &uri, &headers)]
        .into_iter()
        .flatten()
    {
        assert!(!text.contains('@') || uri.path().contains('@') || uri.query().is_some_and(|it| it.contains('@')));
        assert_eq!(Authority::parse(&target.to_string()), Ok(target));
    }
    let Ok(host) = Authority::parse("quay.test") else { return };
    if let Ok(path) = target::origin(&Method::GET, &uri, &headers, &host) {
        assert!(path.split('/').skip(1).all(|segment| !matches!(segment, "." | "..")));
        assert!(!path.contains("//") && !path.to_ascii_lowercase().contains("%2f"));
    }
});
