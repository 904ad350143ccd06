// llama-server's HTTP interface: what is asked, what streams back, and errors in words.

export class Trouble extends Error {
  constructor(kind, words, more = {}) {
    super(words);
    Object.assign(this, { kind, ...more });
  }
}

const ABSENT = "The server does not answer. Is it running? Your text is kept.";
const LOADING = "The server is still loading the model; in a moment it is ready.";
const BROKEN = "The connection broke. What had come is kept; Continue goes on.";

export class Server {
  #places = ["./", "../"]; // the page may lie beside the interface or in a folder below it
  #place = "./";
  key = "";

  /** Model and context size; finds out where the interface is. */
  async props(signal) {
    let refused;
    for (const place of this.#places) {
      this.#place = place;
      try {
        const props = await (await this.#ask("props", undefined, signal)).json();
        this.#places = [place];
        return {
          model: name(props.model_alias || props.model_path || ""),
          context: props.default_generation_settings?.n_ctx ?? props.n_ctx ?? 0,
        };
      } catch (error) {
        if (error instanceof SyntaxError) refused ??= new Trouble("odd", "Something answers here that is no llama-server.");
        else if (error.status === 404) refused ??= error;
        else throw error;
      }
    }
    this.#place = this.#places[0];
    throw refused;
  }

  async tokens(content, signal) {
    const answer = await this.#ask("tokenize", { content, add_special: true }, signal);
    return (await answer.json()).tokens.length;
  }

  /** The events of a completion; ends with the one that says `stop`. */
  async *complete(question, signal) {
    const answer = await this.#ask("completion", { ...question, stream: true }, signal);
    let last;
    try {
      for await (const event of events(answer.body)) {
        if (event.error) throw explain(event.error.code ?? 500, event.error);
        last = event;
        yield event;
        if (event.stop) return;
      }
    } catch (error) {
      if (signal.aborted || error instanceof Trouble) throw error;
      throw new Trouble("broken", BROKEN);
    }
    if (!last?.stop) throw new Trouble("broken", BROKEN);
  }

  async #ask(path, body, signal) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let answer;
    try {
      answer = await fetch(new URL(this.#place + path, document.baseURI), {
        method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Trouble("absent", ABSENT);
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw explain(answer.status, said.error ?? {}, Boolean(this.key));
  }
}

/** The JSON documents of a stream of server-sent events. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + (done ? "\n" : value)).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        const data = /^(?:data|error): ?(.*)$/.exec(line)?.[1];
        if (!data || data === "[DONE]") continue;
        const event = JSON.parse(data);
        yield line.startsWith("error") ? { error: event } : event;
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function explain(status, error, withKey) {
  const said = typeof error === "string" ? error : error.message ?? "";
  if (status === 401 || status === 403) {
    return new Trouble("key", withKey ? "The server does not know this API key." : "The server asks for an API key.", { status });
  }
  if (status === 503) return new Trouble("loading", LOADING, { status });
  if (status === 502 || status === 504) return new Trouble("absent", ABSENT, { status });
  if (error.type === "exceed_context_size_error" || /exceeds? the available context|context size/i.test(said)) {
    const { n_prompt_tokens: tokens = 0, n_ctx: context = 0 } = error;
    const size = tokens ? `It is ${tokens} tokens long, and the model's context holds ${context}` : "The model's context is full";
    return new Trouble("context", `The text is too long. ${size}. Shorten it, or start the server with a larger -c.`, { status, tokens, context });
  }
  if (status === 404) {
    return new Trouble("odd", "No llama-server answers at this address. Is the page served by the server itself?", { status });
  }
  if (status === 429) return new Trouble("busy", "The server is busy. Try again in a moment.", { status });
  return new Trouble("server", `The server refused (${status})${said ? `: ${said}` : ""}. Its log may say more.`, { status });
}

function name(path) {
  return path.split(/[\\/]/).pop().replace(/\.gguf$/i, "");
}
