// An HTTP function: greets who it is told to. The host sends a fetch event for each request.
import { getEnvironment } from "wasi:cli/environment@0.2.10";

async function greet(url) {
  const { pathname, searchParams } = new URL(url);
  if (pathname !== "/") return new Response("not found\n", { status: 404 });
  const greeting = new Map(getEnvironment()).get("GREETING") ?? "hello";
  return new Response(`${greeting}, ${searchParams.get("name") ?? "world"}\n`, {
    headers: { "content-type": "text/plain; charset=utf-8" },
  });
}

addEventListener("fetch", (event) => event.respondWith(greet(event.request.url)));
