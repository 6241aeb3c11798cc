// Files -> parts of a message. The server reads wav, mp3 and flac; other sounds, and what is recorded, become wav here.

const TAG = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** Which of the kinds that a run reads a file is; undefined where it is none. */
export const kindOf = (file, kinds) => {
  const kind = file.type.split("/")[0];
  if (kinds.includes(kind)) return kind;
  return kind === "image" && kinds.includes("video") ? "video" : undefined; // an animated picture
};

/** wav, mp3 or flac, by a sound's first bytes; undefined for what the server does not read. */
export const soundFormat = async (blob) => {
  const bytes = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  if (TAG(bytes, 0, 4) === "RIFF" && TAG(bytes, 8, 12) === "WAVE") return "wav";
  if (TAG(bytes, 0, 4) === "fLaC") return "flac";
  if (TAG(bytes, 0, 3) === "ID3" || (bytes[0] === 0xff && (bytes[1] & 0xe6) === 0xe2)) return "mp3";
  return undefined;
};

/** A sound's samples, mixed to one channel: {samples: Float32Array from -1 to 1, rate in Hz}. */
export const decoded = async (blob) => {
  const context = new AudioContext();
  try {
    const sound = await context.decodeAudioData(await blob.arrayBuffer());
    const samples = new Float32Array(sound.length);
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      sound.getChannelData(channel).forEach((value, place) => (samples[place] += value / sound.numberOfChannels));
    }
    return { samples, rate: sound.sampleRate };
  } finally {
    await context.close();
  }
};

/** Samples as a wav file of 16 bits. */
export const wav = ({ samples, rate }) => {
  const data = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, word) => [...word].forEach((letter, i) => data.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  data.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  data.setUint32(16, 16, true); // bytes of the format
  data.setUint16(20, 1, true); // integers
  data.setUint16(22, 1, true); // channels
  data.setUint32(24, rate, true);
  data.setUint32(28, 2 * rate, true); // bytes a second
  data.setUint16(32, 2, true); // bytes a frame
  data.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  data.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => data.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([data], { type: "audio/wav" });
};

const dataUri = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

const names = new WeakMap(); // content part -> the name of its file

/** The name of the file that a content part holds. */
export const nameOf = (part) => names.get(part);

/** A content part of a message, as `/v1/chat/completions` takes it. */
export const partOf = async ({ kind, blob, input, name }) => {
  const url = await dataUri(blob);
  const part =
    kind === "audio"
      ? { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1), format: await soundFormat(blob) }, input }
      : { type: `${kind}_url`, [`${kind}_url`]: { url }, input };
  names.set(part, name);
  return part;
};

/** Records from the microphone until `stop` is called or `seconds` are over; `done` gets a wav file, `tick` the seconds so far. */
export const record = async (seconds, { done, tick, failed }) => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const chunks = [];
  const began = performance.now();
  const timer = setInterval(() => {
    const so_far = (performance.now() - began) / 1000;
    tick(Math.floor(so_far));
    if (so_far >= seconds - 1 && recorder.state === "recording") recorder.stop();
  }, 250);
  recorder.ondataavailable = (event) => chunks.push(event.data);
  recorder.onstop = async () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
    try {
      done(new File([wav(await decoded(new Blob(chunks, { type: recorder.mimeType })))], "recording.wav", { type: "audio/wav" }));
    } catch (error) {
      failed(error);
    }
  };
  recorder.start();
  return { stop: () => recorder.state === "recording" && recorder.stop() };
};
