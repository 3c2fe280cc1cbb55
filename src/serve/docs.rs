//! The documentation as pages for people: below `/docs`, with the API's own page at `/docs/api`.

use axum::Router;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use pulldown_cmark::{Options, Parser, html};

use super::problem::{Problem, Result};
use crate::docs::{PAGES, Page, page};
use crate::error::{Code, Error, nearest};

/// A page loads its own style, and nothing else in the world.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

const STYLE: &str = include_str!("docs.css");

pub fn routes() -> Router {
    Router::new()
        .route("/docs", get(async || Redirect::temporary("docs/")))
        .route("/docs/", get(async || answer("Streamgauge", &index())))
        .route("/docs/style.css", get(async || ([(CONTENT_TYPE, "text/css"), (CACHE_CONTROL, "no-cache")], STYLE)))
        .route("/docs/{page}", get(shown))
}

async fn shown(Path(name): Path<String>) -> Result<Response> {
    match page(&name) {
        Some(page) => Ok(answer(page.title(), page.text)),
        None => {
            let error = Error::new(Code::NoRoute, format!("no page of the documentation is called '{name}'"));
            Err(Problem::from(match nearest(&name, PAGES.iter().map(|page| page.name)) {
                Some(name) => error.hint(format!("did you mean /docs/{name}?")),
                None => error.hint("/docs/ lists them"),
            }))
        }
    }
}

/// What the first page says, as Markdown.
fn index() -> String {
    let line = |page: &Page| format!("- [{}]({}): {}\n", page.title(), page.name, page.summary());
    let pages: String = PAGES.iter().map(line).collect();
    format!("# Streamgauge\n\n{pages}- [Every address of the API](api/): for people; `/openapi.json` is the same for programs\n")
}

/// A page. All links in it are relative, so that it works behind any prefix.
fn answer(title: &str, markdown: &str) -> Response {
    let mut body = String::new();
    html::push_html(&mut body, Parser::new_ext(markdown, Options::ENABLE_TABLES));
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"style.css\">\n</head>\n<body>\n\
         <nav><a href=\"./\">All pages</a> · <a href=\"api/\">API</a></nav>\n<main>\n{body}</main>\n</body>\n</html>\n"
    );
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, text).into_response()
}
