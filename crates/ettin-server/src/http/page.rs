//! The page at `/ui`: three files that are part of the binary. It asks nothing of any other host, and may not.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::AppState;

/// What a browser may load for the page: its own files, and answers of this server. Text of models is never run, and no
/// other page may put this one into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the page.
#[derive(Debug)]
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

static ASSETS: [Asset; 3] = [
    Asset { path: "/ui", content_type: "text/html; charset=utf-8", bytes: include_bytes!("../ui/index.html") },
    Asset { path: "/ui/app.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("../ui/app.js") },
    Asset { path: "/ui/style.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("../ui/style.css") },
];

/// The page's routes. They need no key: the files are public, and the page asks for the key itself.
pub(super) fn routes() -> Router<AppState> {
    let mut router = Router::new().route("/ui/", get(moved));
    for asset in &ASSETS {
        router = router.route(asset.path, get(move |headers: HeaderMap| async move { asset.answer(&headers) }));
    }
    router
}

/// The page's own links are relative to `/ui`. So is this one: a proxy may have put a prefix before all of them.
async fn moved() -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "../ui")]).into_response()
}

impl Asset {
    fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = format!("\"{:016x}\"", fingerprint(self.bytes));
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|tags| {
            tags.split(',').any(|one| {
                let one = one.trim();
                one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
            })
        });
        let always = [
            (header::ETAG, &*tag),
            // Asked for again each time, and sent again only if it is another.
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        match known {
            true => (StatusCode::NOT_MODIFIED, always).into_response(),
            false => (always, [(header::CONTENT_TYPE, self.content_type)], self.bytes).into_response(),
        }
    }
}

/// FNV-1a of 64 bits. It tells versions of a file apart; nobody gains anything by making two alike.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_browser_that_has_a_file_is_not_sent_it_again() {
        let page = &ASSETS[0];
        let first = page.answer(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_TYPE], page.content_type);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&known).unwrap());
            assert_eq!(page.answer(&headers).status(), status, "{known}");
        }
    }

    #[test]
    fn nothing_in_the_files_breaks_the_policy() {
        for asset in &ASSETS {
            // The namespace of SVG is a name, not an address.
            let text = std::str::from_utf8(asset.bytes).unwrap().replace("http://www.w3.org/2000/svg", "");
            for forbidden in ["http:", "https:", " style=\"", " onclick=", "<style", "javascript:", "@import", "url("] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", asset.path);
            }
        }
    }
}
