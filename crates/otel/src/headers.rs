//! `OTEL_EXPORTER_OTLP_HEADERS`: what the collector wants to be sent along.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers, as `name=value,name=value`; what is special in a value is percent-encoded. They may be secrets and are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub(crate) HeaderMap);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} headers", self.0.len())
    }
}

/// These are no headers. It does not say which are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must look like name=value,name=value, with values percent-encoded")]
pub struct WrongHeaders;

impl FromStr for Headers {
    type Err = WrongHeaders;

    fn from_str(text: &str) -> Result<Self, WrongHeaders> {
        let mut headers = HeaderMap::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(WrongHeaders)?;
            let name: HeaderName = name.trim().parse().map_err(|_| WrongHeaders)?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| WrongHeaders)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_writes_them() {
        let Headers(read) = "api-key=a%20b%3D, Authorization=Basic%20x==,".parse().unwrap();
        assert_eq!(read["api-key"], "a b=");
        assert_eq!(read["authorization"], "Basic x==");
        assert_eq!("".parse(), Ok(Headers::default()));
        for wrong in ["secret", "a b=c", "=c", "a=%0Asecret", "a=b,c"] {
            assert_eq!(wrong.parse::<Headers>(), Err(WrongHeaders), "{wrong}");
        }
        assert!(!WrongHeaders.to_string().contains("secret"));
    }

    #[test]
    fn headers_are_not_shown() {
        let headers: Headers = "api-key=secret".parse().unwrap();
        assert_eq!(format!("{headers:?}"), "1 headers");
    }
}
