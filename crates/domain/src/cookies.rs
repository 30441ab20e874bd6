//! One device's cookies for its one origin.
//!
//! What RFC 6265 says as far as one host can tell: names, paths, Secure, Max-Age and Expires. A
//! cookie for another domain is ignored. Bounded, because a hostile server may set any number.

/// Beyond these a cookie is ignored; browsers have similar limits.
const MAX_COOKIES: usize = 64;
const MAX_COOKIE_BYTES: usize = 4_096;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CookieJar {
    /// In the order in which they were first set.
    cookies: Vec<Cookie>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
    secure: bool,
    /// Seconds since the Unix epoch; `None`: as long as the device lives.
    expires_s: Option<u64>,
}

impl CookieJar {
    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty()
    }

    /// Takes one Set-Cookie header of a reply to a request for `path` on `host`.
    pub fn store(&mut self, header: &str, host: &str, path: &str, now_s: u64) {
        if header.len() > MAX_COOKIE_BYTES || header.bytes().any(|b| b.is_ascii_control()) {
            return;
        }
        let mut parts = header.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (name, value) = (name.trim(), value.trim());
        let mut cookie = Cookie {
            name: name.to_owned(),
            value: value.to_owned(),
            path: default_path(path).to_owned(),
            secure: false,
            expires_s: None,
        };
        let mut max_age = None;
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "domain" => {
                    let domain = value.trim_start_matches('.').to_ascii_lowercase();
                    let host = host.to_ascii_lowercase();
                    let covers = host == domain || host.ends_with(&format!(".{domain}"));
                    if !domain.is_empty() && !covers {
                        return;
                    }
                }
                "path" if value.starts_with('/') => value.clone_into(&mut cookie.path),
                "secure" => cookie.secure = true,
                "max-age" => max_age = value.parse::<i64>().ok(),
                "expires" => cookie.expires_s = date_s(value),
                _ => {}
            }
        }
        if let Some(seconds) = max_age {
            cookie.expires_s = Some(now_s.saturating_add_signed(seconds.max(-1)));
        }
        if name.is_empty() {
            return;
        }
        let is_over = cookie.expires_s.is_some_and(|at| at <= now_s);
        let same = |known: &Cookie| known.name == cookie.name && known.path == cookie.path;
        match self.cookies.iter().position(same) {
            Some(at) if is_over => {
                self.cookies.remove(at);
            }
            Some(at) => self.cookies[at] = cookie,
            None if is_over || self.cookies.len() >= MAX_COOKIES => {}
            None => self.cookies.push(cookie),
        }
    }

    /// Appends what the Cookie header of a request for `path` says; nothing where none fits.
    pub fn header(&self, path: &str, tls: bool, now_s: u64, out: &mut Vec<u8>) {
        let path = path.split('?').next().unwrap_or_default();
        let fits = |cookie: &&Cookie| {
            (tls || !cookie.secure)
                && cookie.expires_s.is_none_or(|at| at > now_s)
                && covers(&cookie.path, path)
        };
        for cookie in self.cookies.iter().filter(fits) {
            if !out.is_empty() {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(cookie.name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(cookie.value.as_bytes());
        }
    }
}

/// The folder of the request's path.
fn default_path(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    match path.rfind('/') {
        Some(at) if at > 0 && path.starts_with('/') => &path[..at],
        _ => "/",
    }
}

fn covers(cookie: &str, path: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

/// `Wdy, DD Mon YYYY HH:MM:SS GMT` or with dashes in the date; `None` where it is no date.
fn date_s(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let rest = text.split_once(',').map_or(text, |(_, rest)| rest);
    let parts: Vec<&str> = rest.split([' ', '-', ':']).filter(|part| !part.is_empty()).collect();
    let [day, month, year, hour, minute, second, ..] = parts.as_slice() else { return None };
    let month = month.to_ascii_lowercase();
    let month = MONTHS.iter().position(|known| month.starts_with(known))? as u64 + 1;
    let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|n| *n <= most);
    let year = match number(year, 9_999)? {
        year @ 0..=69 => year + 2_000,
        year @ 70..=99 => year + 1_900,
        year => year,
    };
    let (day, hour) = (number(day, 31)?, number(hour, 23)?);
    let (minute, second) = (number(minute, 59)?, number(second, 60)?);
    // Days since 1970 of the Gregorian calendar, counted in years that begin in March.
    let shifted = year.checked_sub(u64::from(month <= 2))?;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year;
    // A date before 1970 is over like one in 1970.
    let days = days.saturating_sub(719_468);
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(jar: &CookieJar, path: &str, now_s: u64) -> String {
        let mut out = Vec::new();
        jar.header(path, false, now_s, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_login_cookie_comes_back_until_it_is_over() {
        let mut jar = CookieJar::default();
        jar.store("session=abc; Path=/; HttpOnly; Max-Age=60", "host", "/login", 1_000);
        jar.store("theme=dark", "host", "/settings/view", 1_000);
        assert_eq!(header(&jar, "/data?x=1", 1_001), "session=abc");
        assert_eq!(header(&jar, "/settings/x", 1_001), "session=abc; theme=dark");
        assert_eq!(header(&jar, "/settings-x", 1_001), "session=abc");
        assert_eq!(header(&jar, "/data", 1_060), "");
        jar.store("session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "host", "/", 1_001);
        assert_eq!(header(&jar, "/data", 1_001), "");
    }

    #[test]
    fn cookies_of_other_domains_and_secure_ones_stay_away() {
        let mut jar = CookieJar::default();
        jar.store("a=1; Domain=other", "host.example", "/", 0);
        jar.store("b=2; Domain=.example", "host.example", "/", 0);
        jar.store("c=3; Secure", "host.example", "/", 0);
        assert_eq!(header(&jar, "/", 0), "b=2");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_s("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date_s("Thu, 01-Jan-1970 00:00:01 GMT"), Some(1));
        assert_eq!(date_s("Sat, 29 Feb 2020 12:00:00 GMT"), Some(1_582_977_600));
        assert_eq!(date_s("soon"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_grow(
            headers in prop::collection::vec("[a-z=;, 0-9/-]{0,60}|\\PC{0,40}", 0..100), now: u64
        ) {
            let mut jar = CookieJar::default();
            for header in &headers {
                jar.store(header, "host", "/a/b", now);
            }
            prop_assert!(jar.cookies.len() <= MAX_COOKIES);
            let mut out = Vec::new();
            jar.header("/a/b/c", true, now, &mut out);
        }
    }
}
