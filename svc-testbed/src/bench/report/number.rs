//! Numbers as people read them: three or four digits that mean something.

pub fn show(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "-".to_owned()
    } else if size >= 100_000.0 {
        format!("{:.0}k", value / 1_000.0)
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_size() {
        let shown = [0.123, 4.567, 45.67, 456.7, 4_567.8, 456_789.0, f64::NAN].map(show);
        assert_eq!(shown, ["0.12", "4.57", "45.7", "457", "4568", "457k", "-"]);
    }
}
