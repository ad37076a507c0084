// node build.mjs OUT: makes a component of src/app.js and the world `http` of wit/.
import { componentize } from "@bytecodealliance/componentize-js";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

// componentize-js 0.23 has wasi:http 0.2.10 built in: the WIT must name that version.
const folder = mkdtempSync(join(tmpdir(), "wit-"));
try {
  cpSync("wit", folder, { recursive: true, dereference: true });
  for (const name of readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".wit"))) {
    const file = join(folder, name);
    writeFileSync(file, readFileSync(file, "utf8").replaceAll("0.2.12", "0.2.10"));
  }
  const source = readFileSync("src/app.js", "utf8");
  const { component } = await componentize(source, { sourceName: "app.js", witPath: folder, worldName: "http" });
  writeFileSync(process.argv[2], component);
} finally {
  rmSync(folder, { recursive: true });
}
