//! Durations as kube-proxy's flags take them: Go's notation (`24h0m0s`, `90m`, `0`), in whole seconds.

use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer};

/// `None`, written 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeout(pub Option<u32>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not a duration such as 24h, 90m or 30s");
        if text == "0" {
            return Ok(Self(None));
        }
        let seconds = text.parse::<SignedDuration>().map_err(|_| invalid())?.as_secs();
        // Times wrap around after 136 years, and only half of that can be told from the future.
        let seconds = u32::try_from(seconds).map_err(|_| invalid())?.min(i32::MAX as u32);
        Ok(Self((seconds > 0).then_some(seconds)))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TextOrNumber {
            Text(String),
            Number(u64),
        }
        let text = match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_for_kube_proxy() {
        let seconds = |text: &str| text.parse::<Timeout>().map(|Timeout(seconds)| seconds);
        for (text, expected) in [
            ("24h0m0s", Some(86_400)),
            ("1h", Some(3600)),
            ("1h30m", Some(5400)),
            ("1.5h", Some(5400)),
            ("90s", Some(90)),
            ("0", None),
            ("0s", None),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "forever", "10", "-1h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
