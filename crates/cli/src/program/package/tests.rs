use std::fs;

use super::*;

/// A directory with files, removed with the test.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-package-{}-{name}", std::process::id()));
        let tree = Self(path);
        for (file, text) in files {
            let file = tree.0.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        tree
    }

    fn resolve(&self, line: &str) -> Result<Option<Resolved>, Failure> {
        let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
        resolve(&words, &self.0)
    }

    /// The command a line comes to, with this directory left out of it.
    fn command(&self, line: &str) -> String {
        let resolved = self.resolve(line).unwrap().unwrap();
        let words: Vec<_> = resolved.command.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ").replace(&format!("{}/", self.0.display()), "")
    }

    fn refusal(&self, line: &str) -> String {
        let text = self.resolve(line).unwrap_err().chain();
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PACKAGE: &str = r#"{
    "name": "@shop/web", "version": "1.2.3", "bin": {"shop": "./bin/shop.js"},
    "scripts": {
        "start": "NODE_ENV=production node --title=web server.js",
        "prestart": "tsc",
        "serve": "npm run start -- --port 80",
        "next": "next start",
        "dev": "nodemon server.js",
        "typed": "tsx src/app.ts",
        "build-and-go": "tsc -p . && node dist/server.js",
        "piped": "node server.js | pino",
        "round": "npm run about", "about": "yarn round",
        "stack": "react-scripts start"
    }
}"#;

fn shop(name: &str) -> Tree {
    Tree::new(
        name,
        &[
            ("package.json", PACKAGE),
            ("bin/shop.js", ""),
            ("node_modules/.bin/next", ""),
            ("node_modules/@corp/tool/package.json", r#"{"name": "@corp/tool", "bin": "cli.js"}"#),
            ("node_modules/@corp/tool/cli.js", ""),
            ("src/deep/file.js", ""),
        ],
    )
}

#[test]
fn scripts_become_their_program() {
    let shop = shop("scripts");
    for line in [
        "npm start",
        "npm run start",
        "npm --silent run-script start",
        "yarn start",
        "pnpm start",
        "bun start",
        "bun run start",
    ] {
        assert_eq!(shop.command(line), "node --title=web server.js", "{line}");
    }
    assert_eq!(shop.command("npm start -- -x"), "node --title=web server.js -x");
    assert_eq!(shop.command("npm start --verbose"), "node --title=web server.js", "npm's own flag");
    assert_eq!(shop.command("yarn start -x y"), "node --title=web server.js -x y");
    assert_eq!(shop.command("npm start prod -- --port 80"), "node --title=web server.js prod --port 80");
    assert_eq!(shop.command("pnpm start a -- -b"), "node --title=web server.js a -b");
    assert_eq!(shop.command("npm run serve"), "node --title=web server.js --port 80");
    assert_eq!(shop.command("npm run next"), "node_modules/.bin/next start");
}

#[test]
fn a_script_runs_where_its_package_is_and_knows_it() {
    let shop = shop("place");
    let words = ["npm".into(), "start".into()];
    let resolved = resolve(&words, &shop.0.join("src/deep")).unwrap().unwrap();
    assert_eq!(resolved.cwd.as_ref(), Some(&shop.0));
    assert_eq!(resolved.name.as_deref(), Some("@shop/web"));
    for (name, value) in
        [("npm_package_version", "1.2.3"), ("npm_lifecycle_event", "start"), ("NODE_ENV", "production")]
    {
        assert!(resolved.env.contains(&(name.into(), value.into())), "{:?}", resolved.env);
    }
    assert_eq!(resolved.notes.len(), 1);
    assert!(resolved.notes[0].starts_with("script 'prestart' of "), "{:?}", resolved.notes);
}

#[test]
fn programs_of_packages_are_found() {
    let shop = shop("programs");
    assert_eq!(shop.command("npx next start -p 80"), "node_modules/.bin/next start -p 80");
    assert_eq!(shop.command("npx --yes next@14 start"), "node_modules/.bin/next start");
    assert_eq!(shop.command("npm exec -- next start"), "node_modules/.bin/next start");
    assert_eq!(shop.command("pnpm exec next"), "node_modules/.bin/next");
    assert_eq!(shop.command("bunx next"), "node_modules/.bin/next");
    assert_eq!(shop.command("npx shop"), "bin/shop.js", "the package's own");
    assert_eq!(shop.command("npx @corp/tool"), "node_modules/@corp/tool/cli.js");
    assert!(shop.refusal("npx vite").contains("install it first: npm install vite"));
}

#[test]
fn what_is_not_simply_a_program_is_answered_with_what_to_type() {
    let shop = shop("refused");
    for (line, part) in [
        ("npm run dev", "type: everycore run -- node server.js"),
        ("npm run typed", "type: everycore run -- node --import tsx src/app.ts"),
        ("npm run build-and-go", "then type: everycore run -- node dist/server.js"),
        ("npm run piped", "needs a shell (node server.js | pino)"),
        ("npm run nothing", "package.json has no script 'nothing'; there are about, build-and-go"),
        ("npm run round", "calls itself in the end"),
        ("npx nodemon app.js", "type: everycore run -- node app.js"),
        ("npx tsx watch src/app.ts", "type: everycore run -- node --import tsx src/app.ts"),
        ("nodemon -r dotenv/config app.js", "type: everycore run -- node app.js"),
        ("./node_modules/.bin/tsx src/app.ts", "type: everycore run -- node --import tsx src/app.ts"),
        ("pm2 start app.js", "type: everycore run -- node app.js"),
        ("npm --prefix=api start", "type the program itself"),
        ("npm run --workspace=api start", "type the program itself"),
        ("npm start --workspace=api", "type the program itself"),
        ("pnpm --filter=api start", "type the program itself"),
        ("yarn --cwd=api start", "type the program itself"),
        ("npm install", "type the program itself"),
        ("npm run", "type the program itself"),
        ("yarn add x", "type the program itself"),
        ("deno task start", "type the program itself"),
    ] {
        let refusal = shop.refusal(line);
        assert!(refusal.contains(part), "{line}: {refusal}");
    }
}

#[test]
fn what_is_no_package_manager_is_left_alone() {
    let shop = shop("others");
    for line in ["node server.js", "bun server.ts", "bun run server.ts", "deno run app.ts", "./start"] {
        assert_eq!(shop.resolve(line).unwrap(), None, "{line}");
    }
}

#[test]
fn start_means_server_js_where_it_is_not_said() {
    let tree = Tree::new("default", &[("package.json", "\u{feff}{}"), ("server.js", "")]);
    assert_eq!(tree.command("npm start"), "node server.js");
    let broken = Tree::new("broken", &[("package.json", "{")]);
    assert!(broken.refusal("npm start").contains("package.json: not valid"));
}
