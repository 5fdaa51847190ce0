//! Plain scalars as YAML 1.1 has them, the way APISIX's parser reads them. APISIX resources.md §3.4.

use super::Kind;

/// Reads a plain (unquoted) scalar. The second value names a reading that surprises people, for a warning.
pub fn resolve(text: &str) -> (Kind, Option<&'static str>) {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return (Kind::Null, None),
        "true" | "True" | "TRUE" => return (Kind::Bool(true), None),
        "false" | "False" | "FALSE" => return (Kind::Bool(false), None),
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return (Kind::Bool(true), None),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return (Kind::Bool(false), None);
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" => return (Kind::Float(f64::INFINITY), None),
        "-.inf" | "-.Inf" | "-.INF" => return (Kind::Float(f64::NEG_INFINITY), None),
        ".nan" | ".NaN" | ".NAN" => return (Kind::Float(f64::NAN), None),
        _ => {}
    }
    let (negative, digits) = match text.split_at_checked(1) {
        Some(("-", rest)) => (true, rest),
        Some(("+", rest)) => (false, rest),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return (Kind::Text(text.to_owned()), None);
    }
    let sign = |value: i64| if negative { -value } else { value };
    if let Some((value, surprise)) = integer(digits) {
        return (Kind::Int(sign(value)), surprise);
    }
    match float(digits) {
        Some(value) => (Kind::Float(if negative { -value } else { value }), None),
        None => (Kind::Text(text.to_owned()), None),
    }
}

fn integer(digits: &str) -> Option<(i64, Option<&'static str>)> {
    let radix = |digits: &str, radix: u32| {
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        (!plain.is_empty()).then(|| i64::from_str_radix(&plain, radix).ok()).flatten()
    };
    if let Some(hex) = digits.strip_prefix("0x") {
        return radix(hex, 16).map(|value| (value, None));
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return radix(binary, 2).map(|value| (value, None));
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7' | b'_')) {
        return radix(digits, 8).map(|value| (value, Some("is read as an octal number; quote it to mean text")));
    }
    if digits.contains(':') {
        let mut value: i64 = 0;
        let mut parts = digits.split(':');
        let first = parts.next()?;
        value += first.bytes().all(|byte| byte.is_ascii_digit()).then(|| first.parse::<i64>().ok()).flatten()?;
        for part in parts {
            let minutes = part.len() <= 2 && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let part = part.parse::<i64>().ok().filter(|part| minutes && *part < 60)?;
            value = value.checked_mul(60)?.checked_add(part)?;
        }
        return Some((value, Some("is read as a sexagesimal number; quote it to mean text")));
    }
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'_')
        .then(|| radix(digits, 10))
        .flatten()
        .map(|value| (value, None))
}

fn float(digits: &str) -> Option<f64> {
    let shape = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-' | b'_'));
    let dots = digits.bytes().filter(|byte| *byte == b'.').count();
    let has_digit = digits.bytes().any(|byte| byte.is_ascii_digit());
    if !shape || dots > 1 || !has_digit {
        return None;
    }
    digits.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_readings() {
        for (text, expected) in [
            ("yes", "Bool(true)"),
            ("on", "Bool(true)"),
            ("Off", "Bool(false)"),
            ("y", "Text(\"y\")"),
            ("014", "Int(12)"),
            ("08", "Int(8)"),
            ("0o14", "Text(\"0o14\")"),
            ("1_000", "Int(1000)"),
            ("0b11", "Int(3)"),
            ("0x1F", "Int(31)"),
            ("12:30:45", "Int(45045)"),
            ("1:30", "Int(90)"),
            ("127.0.0.1:80", "Text(\"127.0.0.1:80\")"),
            ("1.2.3.4", "Text(\"1.2.3.4\")"),
            ("2024-01-01", "Text(\"2024-01-01\")"),
            ("1.10", "Float(1.1)"),
            ("1e3", "Float(1000.0)"),
            ("-5", "Int(-5)"),
            ("~", "Null"),
            ("5s", "Text(\"5s\")"),
            ("-", "Text(\"-\")"),
            (".", "Text(\".\")"),
            ("[::1]", "Text(\"[::1]\")"),
        ] {
            assert_eq!(format!("{:?}", resolve(text).0), expected, "{text}");
        }
    }
}
