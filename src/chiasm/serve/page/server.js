// The server's routes. The API key, where one was asked for, lives in this tab's session alone.

const STORE = "chiasm-key";

/** The server's refusal: its message, its code, and what of the request it is about (`param`). */
export class Refusal extends Error {
  constructor(status, { message, code, param } = {}) {
    super(message ?? `the server answered ${status}`);
    Object.assign(this, { status, code, param });
  }
}

export const useKey = (key) => sessionStorage.setItem(STORE, key);
export const hasKey = () => sessionStorage.getItem(STORE) !== null;

/** A header holds bytes, one a character: those of the key in UTF-8. */
const asBytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

const headers = () => (hasKey() ? { authorization: `Bearer ${asBytes(sessionStorage.getItem(STORE))}` } : {});

const checked = async (answer) => {
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("key-wanted"));
  throw new Refusal(answer.status, body.error ?? { message: `${answer.status} ${answer.statusText}` });
};

export const get = async (path) => checked(await fetch(path, { headers: headers() }));

export const post = async (path, body, signal) =>
  checked(await fetch(path, { method: "POST", headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(body), signal }));

/** The events of a streamed answer, one by one. */
export async function* events(path, body, signal) {
  const answer = await post(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (held + value).split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Refusal(500, found.error);
      yield found;
    }
  }
}
