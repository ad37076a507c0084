//! An HTTP function: greets who it is told to.

use catamaran_sdk::{Method, Request, Response, env};

catamaran_sdk::http!(handle);

fn handle(request: Request) -> Response {
    match (request.method(), request.path()) {
        (Method::Get, "/") => {
            let greeting = env("GREETING").unwrap_or_else(|| "hello".into());
            let name = request.query("name").unwrap_or_else(|| "world".into());
            Response::text(format!("{greeting}, {name}\n"))
        }
        (Method::Post, "/echo") => Response::new(200).body(request.into_body()),
        _ => Response::not_found(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets() {
        let mut response = handle(Request::new(Method::Get, "/?name=you"));
        assert_eq!(response.read_text().unwrap(), "hello, you\n");
    }
}
