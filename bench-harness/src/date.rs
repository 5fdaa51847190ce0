//! Seconds since 1970 as a date, for reports and for the log of the peer on Pingora, which shares this file.

/// A date and time in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u64,
    /// Month, from 1.
    pub month: u64,
    /// Day, from 1.
    pub day: u64,
    /// Hour, minute, second.
    pub time: [u64; 3],
}

/// The date of so many seconds since 1970 (Howard Hinnant's civil_from_days).
pub fn date(seconds: u64) -> Date {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    Date { year, month, day, time: [rest / 3_600, rest / 60 % 60, rest % 60] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), Date { year: 1970, month: 1, day: 1, time: [0, 0, 0] });
        assert_eq!(date(951_782_400), Date { year: 2000, month: 2, day: 29, time: [0, 0, 0] });
        assert_eq!(date(1_798_761_599), Date { year: 2026, month: 12, day: 31, time: [23, 59, 59] });
    }
}
