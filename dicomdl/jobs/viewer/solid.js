// Volumes in 3D by NiiVue: a file of the user, which this server sends at the first press.
"use strict";
const solid = { nv: null, shown: "", request: 0 };

function solidOffered(isThere) {
  for (const element of document.querySelectorAll("#to-solid, .of-solid")) element.hidden = !isThere;
}

function solidToggled() {
  if ($("to-solid").hidden) return;
  const wanted = $("solid").hidden;
  $("solid").hidden = !wanted; $("planes").hidden = wanted;
  $("to-solid").setAttribute("aria-pressed", String(wanted));
  told();
  if (wanted) solidShown(); else state.planes.forEach(draw);
}

async function niivueOf() {
  if (!window.niivue)
    await new Promise((done, failed) => {
      const script = made("script");
      script.src = "niivue.js";
      script.onload = done;
      script.onerror = () => failed(new Error("the script of NiiVue cannot be loaded"));
      document.head.append(script);
    });
  if (!solid.nv) {
    const nv = new window.niivue.Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientCube: true, dragAndDropEnabled: false, logLevel: "silent" });
    await nv.attachToCanvas($("solid").querySelector("canvas"));
    nv.setSliceType(nv.sliceTypeRender);
    solid.nv = nv;
  }
  return solid.nv;
}

// The volume and, if labels are chosen, the label map over it: as files, on one grid.
async function solidFiles(stack, source) {
  const paths = [`stack/${stack}/volume.nii`, ...(source < 0 ? [] : [`stack/${stack}/labels/${source}.nii`])];
  return Promise.all(paths.map(async (path) => (await fetched(path)).arrayBuffer()));
}

async function solidShown() {
  if ($("solid").hidden || !state.facts || !state.facts.planes) return;
  const stack = state.facts.number, source = state.source, name = `${stack} ${source}`;
  if (solid.shown === name) return;
  const mine = ++solid.request;
  told("the volume is read ...");
  try {
    const nv = await niivueOf(), files = await solidFiles(stack, source);
    if (mine !== solid.request) return;
    while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
    for (const [rank, buffer] of files.entries()) {
      const image = await window.niivue.NVImage.new(buffer, rank ? "labels.nii" : "volume.nii");
      if (rank) image.setColormapLabel(solidColours());
      nv.addVolume(image);
    }
    solid.shown = name;
    solidWindowed();
    told();
  } catch (error) { if (mine === solid.request) told(error); }
}

// Labels have the colours of the list beside the pictures; 0 is no label.
function solidColours() {
  const numbers = Object.keys(state.names).map(Number), colours = numbers.map((_, rank) => COLOURS[rank % COLOURS.length]);
  const part = (at) => [0, ...colours.map((colour) => colour[at])];
  return { R: part(0), G: part(1), B: part(2), A: [0, ...numbers.map(() => 255)], I: [0, ...numbers], labels: ["", ...Object.values(state.names)] };
}

function solidWindowed() {
  const image = solid.nv && solid.nv.volumes[0];
  if (!image) return;
  image.cal_min = state.lower; image.cal_max = state.lower + state.width;
  solid.nv.updateGLVolume();
}

$("to-solid").addEventListener("click", solidToggled);
