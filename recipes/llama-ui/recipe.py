from mmojo_forge.recipe import (
    Component,
    Files,
    NpmClosure,
    Package,
    Pypi,
    Spec,
    apply_patches,
    build,
    node_modules,
    recipe,
    unpack,
)
from recipes.lib.llama_cpp import PURL, PYPI_VERSION, SDIST, SOURCES, VERSION

# The page belongs to the server that it was written for: the same source as recipes/llama-cpp.
SOURCE = Pypi("llama_cpp_python", PYPI_VERSION, f"{SDIST}.tar.gz")
VENDORED = "tools/ui/src/lib/vendors"

PACKAGES = NpmClosure(
    "llama-ui",
    SOURCE,
    f"{SOURCES}/tools/ui/package-lock.json",
    # Tests, linters and formatters, and what optional parts bring for another libc: the page is the same without.
    exclude=(
        "*-musl",
        "@chromatic-com/*",
        "@eslint/*",
        "@img/*linuxmusl*",
        "@napi-rs/*",
        "@playwright/*",
        "@storybook/*",
        "@vitest/*",
        "eslint*",
        "http-server",
        "playwright",
        "prettier*",
        "storybook",
        "svelte-check",
        "typescript-eslint",
        "vitest*",
    ),
)

# The packages that parts of get into the page; what is built with the others has nothing of them. The build compares.
BUNDLED = """
@braintree/sanitize-url @floating-ui/core @floating-ui/dom @floating-ui/utils @iconify/utils @lucide/svelte
@mermaid-js/parser @modelcontextprotocol/sdk @sveltejs/kit @tailwindcss/forms @tailwindcss/typography
@ungap/structured-clone @upsetjs/venn.js ajv ajv-formats bail bits-ui ccount character-entities-html4
character-entities-legacy clsx comma-separated-tokens content-type cose-base cytoscape cytoscape-cose-bilkent
cytoscape-fcose d3-array d3-axis d3-color d3-dispatch d3-ease d3-format d3-hierarchy d3-interpolate d3-path
d3-sankey d3-scale d3-scale-chromatic d3-selection d3-shape d3-time d3-time-format d3-timer d3-transition d3-zoom
dagre-d3-es dayjs decode-named-character-reference devlop dexie dompurify es-toolkit escape-string-regexp esm-env
eventsource eventsource-parser extend fast-deep-equal fast-uri fflate hast-util-from-dom
hast-util-from-html-isomorphic hast-util-is-element hast-util-parse-selector hast-util-to-html hast-util-to-text
hast-util-whitespace hastscript highlight.js html-void-elements idb inline-style-parser internmap is-plain-obj
json-schema-traverse katex khroma layout-base lodash-es longest-streak lowlight markdown-table marked
mdast-util-find-and-replace mdast-util-from-markdown mdast-util-gfm mdast-util-gfm-autolink-literal
mdast-util-gfm-footnote mdast-util-gfm-strikethrough mdast-util-gfm-table mdast-util-gfm-task-list-item
mdast-util-math mdast-util-newline-to-break mdast-util-phrasing mdast-util-to-hast mdast-util-to-markdown
mdast-util-to-string mermaid micromark micromark-core-commonmark micromark-extension-gfm
micromark-extension-gfm-autolink-literal micromark-extension-gfm-footnote micromark-extension-gfm-strikethrough
micromark-extension-gfm-table micromark-extension-gfm-task-list-item micromark-extension-math
micromark-factory-destination micromark-factory-label micromark-factory-space micromark-factory-title
micromark-factory-whitespace micromark-util-character micromark-util-chunked micromark-util-classify-character
micromark-util-combine-extensions micromark-util-decode-numeric-character-reference micromark-util-decode-string
micromark-util-html-tag-name micromark-util-normalize-identifier micromark-util-resolve-all
micromark-util-sanitize-uri micromark-util-subtokenize mode-watcher pdfjs-dist pkce-challenge property-information
rehype-highlight rehype-katex rehype-stringify remark remark-breaks remark-gfm remark-math remark-parse
remark-rehype remark-stringify roughjs runed space-separated-tokens stringify-entities style-to-object stylis svelte
svelte-sonner svelte-toolbelt tabbable tailwind-merge tailwind-variants tailwindcss trim-lines trough ts-dedent
tw-animate-css unified unist-util-find-after unist-util-is unist-util-position unist-util-stringify-position
unist-util-visit unist-util-visit-parents uuid vfile vfile-message vite vite-plugin-pwa web-namespaces workbox-core
workbox-expiration workbox-precaching workbox-routing workbox-strategies workbox-window zod zod-to-json-schema
zwitch
"""

# As npm lays it out, since paths of components go into the bundle, and in memory, since disks are slow to take forty
# thousand files and to let go of them. vite.config.ts imports two test runners, for which stubs stand in.
PREPARE = """
mkdir /tmp/page
cp -r /forge/source/tools/ui /tmp/page/ui
chmod -R u+w /tmp/page/ui
cp -r /forge/modules /tmp/page/ui/node_modules
chmod u+w /tmp/page/ui/node_modules
cp -r /forge/stubs /tmp/page/node_modules
"""

ICONS = """
cd /tmp/page/ui
node node_modules/@vite-pwa/assets-generator/bin/pwa-assets-generator.mjs --root . --config pwa-assets.config.ts
node node_modules/@vite-pwa/assets-generator/bin/pwa-assets-generator.mjs --root . --config pwa-assets-dark.config.ts
node scripts/make-icons-circular.js
"""

# The name of the version tells browsers that the page has changed: it is a hash of all that it is built from.
BUILD = """
cd /forge/source/tools/ui
LLAMA_UI_VERSION=$(find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
export LLAMA_UI_VERSION
cd /tmp/page/ui
node node_modules/vite/bin/vite.js build
"""

INSTALL = f"""
cd /tmp/page/ui/dist
for file in index.html sw.js workbox-*.js manifest.webmanifest build.json _app/version.json favicon.ico; do
    test -s "$file"
done
cat > /build/expected <<'END'
{BUNDLED.strip()}
END
python3 -B /forge/licences/collect.py /build/bundled .. . /build/expected /forge/out/licences
mkdir /forge/out/out
cp -r . /forge/out/out
"""


@recipe("llama-ui.source")
def source() -> Spec:
    """The source of llama.cpp's web page, as it is released."""
    return unpack("llama-ui-source", SOURCE, subpath=SOURCES, include=("LICENSE", "tools/ui")).made_of(
        Component("llama-ui", VERSION, "MIT", purl=PURL, notices=("LICENSE",)),
        Component("nerdamer-prime", "", "MIT", notices=(f"{VENDORED}/nerdamer-prime/LICENSE",)),
        Component("big-integer", "", "Unlicense", notices=(f"{VENDORED}/big-integer/LICENSE",)),
        Component("decimal.js", "10.6.0", "MIT", notices=(f"{VENDORED}/decimal.js/LICENCE.md",)),
    )


@recipe("llama-ui.patched")
def patched(userland: Package) -> Spec:
    """The source of llama.cpp's web page with our changes."""
    done = apply_patches("llama-ui-patched", Package("llama-ui.source"), userland=userland)
    return done.made_of(Component("mmojo-server", licence="Apache-2.0", of="patches"))


@recipe("llama-ui.modules")
def modules() -> Spec:
    """The packages that llama.cpp's web page is made of and built with."""
    # Their package.json names no licence, but the text of one lies beside it.
    unnamed = {
        "khroma-2.1.0": "khroma/license",
        "runed-0.23.4": "mode-watcher/node_modules/svelte-toolbelt/node_modules/runed/LICENSE",
        "runed-0.25.0": "mode-watcher/node_modules/runed/LICENSE",
        "svelte-toolbelt-0.7.1": "mode-watcher/node_modules/svelte-toolbelt/LICENSE",
        "svelte-toolbelt-0.10.6": "svelte-toolbelt/LICENSE",
    }
    return node_modules("llama-ui-modules", PACKAGES).made_of(
        *(
            Component(one.rpartition("-")[0], licence="MIT", of=f"package-{one}", notices=(text,))
            for one, text in unnamed.items()
        )
    )


@recipe("llama-ui")
def llama_ui(node: Package, userland: Package, *, version: str = VERSION) -> Spec:
    """llama.cpp's web page, built from source: a folder that any web server can serve."""
    return build(
        "llama-ui",
        userland=userland,
        inputs={
            "source": Package("llama-ui.patched"),
            "modules": Package("llama-ui.modules"),
            "node": node,
            "stubs": Files("stubs"),
            "licences": Files("licences"),
        },
        outputs=("out", "licences"),
        env={
            "PATH": "/forge/node/bin:/usr/bin:/bin",
            "LLAMA_BUILD_NUMBER": version,
            "LLAMA_UI_BUNDLED": "/build/bundled",
            # What the CPU can do must not be seen in the icons.
            "VIPS_NOVECTOR": "1",
            "VIPS_CONCURRENCY": "1",
        },
        phases={"prepare": PREPARE, "icons": ICONS, "build": BUILD, "install": INSTALL},
    ).containing("source", modules=tuple(BUNDLED.split()))
