(()=>{const me=document.currentScript,
f=me?me.closest("figure"):document.querySelector(".an-slider:not([data-on])"),
q=s=>[...f.querySelectorAll(s)],
frames=JSON.parse(q('script[type="application/json"]')[0].textContent),
input=q("input")[0],out=q("output")[0],
layers=q(".an-panels>svg>svg>g:last-child"),desc=q(".an-panels>svg>desc");
f.dataset.on="";input.disabled=false;
const show=()=>{const [value,text,marks]=frames[+input.value];
input.setAttribute("aria-valuetext",value);
out.firstChild.textContent=value;out.lastChild.textContent=text;
layers.forEach((g,i)=>{g.innerHTML=marks[i];desc[i].textContent=text})};
input.addEventListener("input",show)})()
